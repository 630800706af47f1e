"""How records are written in bytes: one file per format."""
