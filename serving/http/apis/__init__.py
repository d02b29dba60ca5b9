"""Wire formats: one pair of schemas and paths a protocol, over what they share."""
