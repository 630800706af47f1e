"""The aggregates of `.agg()` and of windows."""
