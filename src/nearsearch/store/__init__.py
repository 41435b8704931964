"""The index on disk: files, manifests, shards. Never computes a distance."""
