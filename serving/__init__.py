"""Ray Serve application: every head of a BigBird checkpoint as an HTTP endpoint.

It knows of HTTP, queues and replicas; what a record means is known by `bigbird.predictors` alone.
"""
