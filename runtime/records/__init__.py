"""What records are made of: types from annotations to Arrow, fields, and batches in other forms."""
