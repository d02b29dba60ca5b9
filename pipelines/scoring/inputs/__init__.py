"""What a job reads: files and their schema, units of rows, reading a unit."""
