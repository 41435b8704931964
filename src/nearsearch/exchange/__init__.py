"""Hash lists and tables in and out: one module per format."""
