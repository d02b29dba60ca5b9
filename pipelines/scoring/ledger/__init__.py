"""What an output directory holds: opened or resumed, rows left to do, finished files."""
