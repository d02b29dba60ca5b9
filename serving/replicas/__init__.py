"""What runs in a head's replica: batches by tokens, the generation engine."""
