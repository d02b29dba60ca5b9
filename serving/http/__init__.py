"""HTTP in front of the heads: validation, authentication, routing, errors as status codes."""
