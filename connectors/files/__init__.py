"""Files as a source of splits and as an exactly-once sink."""
