"""Causal language models continue texts: options, requests, their schedule, the sampler, the engine over all."""
