"""Keyed state in rows: handles, cells in a cache, and the row stores beneath."""
