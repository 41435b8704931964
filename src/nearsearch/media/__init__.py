"""File bytes to pixels, under limits."""
