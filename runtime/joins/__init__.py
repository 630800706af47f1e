"""Joins: two streams whose records meet by key."""
