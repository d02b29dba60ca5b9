"""What runs in Ray Data's actors: a predictor over rows, tokenizing, one unit into one output file."""
