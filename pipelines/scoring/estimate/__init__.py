"""What a job will cost, found out from a sample of its rows."""
