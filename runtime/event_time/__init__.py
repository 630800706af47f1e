"""Event time: timestamps of records, watermark strategies and generators, and watermarks of many inputs as one."""
