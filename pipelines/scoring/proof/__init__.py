"""What an output can be proved by: its receipt, and the comparison of some rows scored again."""
