"""Keyed state in columns: arrays of accumulators behind a hash index, and the compiled loops over them."""
