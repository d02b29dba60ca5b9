"""Prometheus metrics of a head's replica; they land on Ray's own metrics endpoint.

Names as Prometheus shows them carry Ray's prefix (`ray_bigbird_...`); every metric has the tag `head`, and Serve
adds deployment, replica and application. `cluster/grafana_dashboard.json` draws them.
"""

from __future__ import annotations

from ray.serve.metrics import Counter, Gauge, Histogram

from serving.replicas.batching import BatchReport

_SECONDS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100]
_TOKENS = [64, 256, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 262144]


class HeadMetrics:
    """What one replica computes: tokens, batches, and where the time of a request goes."""

    def __init__(self, head: str) -> None:
        tags = ("head",)

        def histogram(name: str, description: str, boundaries: list[float]) -> Histogram:
            metric = Histogram(name, description=description, boundaries=boundaries, tag_keys=tags)
            metric.set_default_tags({"head": head})
            return metric

        def counter(name: str, description: str) -> Counter:
            metric = Counter(name, description=description, tag_keys=tags)
            metric.set_default_tags({"head": head})
            return metric

        def gauge(name: str, description: str) -> Gauge:
            metric = Gauge(name, description=description, tag_keys=tags)
            metric.set_default_tags({"head": head})
            return metric

        self._tokens = counter("bigbird_tokens", "Tokens read by the model.")
        self._queue_s = histogram("bigbird_queue_seconds", "Time a piece of a request waited for the model.", _SECONDS)
        self._tokenize_s = histogram("bigbird_tokenize_seconds", "Time to tokenize a request.", _SECONDS)
        self._model_s = histogram("bigbird_model_seconds", "Time of one batch in the model.", _SECONDS)
        self._batch_tokens = histogram("bigbird_batch_tokens", "Tokens of one batch.", [float(n) for n in _TOKENS])
        self._queued_tokens = gauge("bigbird_queued_tokens", "Tokens waiting for the model.")
        self._first_token_s = histogram(
            "bigbird_time_to_first_token_seconds",
            "From a request's arrival at the replica to its first token.",
            _SECONDS,
        )
        self._generated = counter("bigbird_generated_tokens", "Tokens generated.")
        self._running = gauge("bigbird_running_generations", "Requests that hold a slot of the engine.")
        self._waiting = gauge("bigbird_waiting_generations", "Requests that wait for a slot of the engine.")
        self._between_tokens_s = histogram(
            "bigbird_time_per_output_token_seconds", "From one token of a generation to its next, on average.", _SECONDS
        )
        self._prompt_tokens = counter("bigbird_prompt_tokens", "Tokens of the prompts of finished generations.")
        self._shared_tokens = counter("bigbird_shared_prompt_tokens", "Prompt tokens that the cache already had.")
        self._cache_share = gauge("bigbird_cache_used_share", "Share of the engine's cache that is in use, 0 to 1.")
        self._finished = Counter(
            "bigbird_finished_generations",
            description="Generations by why they ended: stop or length.",
            tag_keys=("head", "reason"),  # type: ignore[arg-type]  # Ray annotates a tuple of exactly one
        )
        self._finished.set_default_tags({"head": head})
        self._load_s = gauge("bigbird_load_seconds", "Time a replica took to load its model.")

    def batch(self, report: BatchReport) -> None:
        self._tokens.inc(max(report.num_tokens, 1))
        self._batch_tokens.observe(report.num_tokens)
        self._model_s.observe(max(report.model_s, 1e-6))
        for seconds in report.queue_s:
            self._queue_s.observe(max(seconds, 1e-6))

    def queued(self, num_tokens: int) -> None:
        self._queued_tokens.set(num_tokens)

    def tokenized(self, seconds: float) -> None:
        self._tokenize_s.observe(max(seconds, 1e-6))

    def first_token(self, seconds: float) -> None:
        self._first_token_s.observe(max(seconds, 1e-6))

    def loaded(self, seconds: float) -> None:
        self._load_s.set(seconds)

    def generated(
        self, num_tokens: int, *, running: int, waiting: int, num_shared_tokens: int, cache_used_share: float
    ) -> None:
        """One step of the engine; num_shared_tokens: of prompts that were admitted in it."""
        if num_tokens:
            self._generated.inc(num_tokens)
        if num_shared_tokens:
            self._shared_tokens.inc(num_shared_tokens)
        self._running.set(running)
        self._waiting.set(waiting)
        self._cache_share.set(cache_used_share)

    def finished(self, reason: str, *, num_prompt_tokens: int, num_tokens: int, decode_s: float) -> None:
        """One generation that ended; decode_s: from its first token to its last."""
        self._finished.inc(1, tags={"reason": reason})
        self._prompt_tokens.inc(num_prompt_tokens)
        if num_tokens > 1:
            self._between_tokens_s.observe(max(decode_s / (num_tokens - 1), 1e-6))
