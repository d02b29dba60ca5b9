"""Before the gateway: proxy and connections, request ids, keys, bodies."""
