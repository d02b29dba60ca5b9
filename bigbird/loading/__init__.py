"""Checkpoints on disk and on the Hub: a hub id as a directory, weight files, names of weights, load and save."""
