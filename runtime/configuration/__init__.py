"""Every option: its key, type, default and meaning, and what options come to together."""
