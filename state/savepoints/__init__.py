"""Savepoints: canonical Parquet files, what can be read of them without their job, and their disposal."""
