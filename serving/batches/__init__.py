"""Batches: files of requests that are answered by a scoring job of the cluster, and the storage they lie in."""
