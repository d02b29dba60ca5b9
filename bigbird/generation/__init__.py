"""Causal language models continue texts: options, sampling, one decoding step, beam search, the engine, streams."""
