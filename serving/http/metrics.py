"""Prometheus metrics of the gateway, as clients see it. Names and tags: see `serving.replicas.metrics`."""

from __future__ import annotations

from typing import Any

from ray.serve.metrics import Counter, Gauge, Histogram

_SECONDS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100]


def _tags(*names: str) -> Any:
    # Ray annotates tag_keys as a tuple of exactly one; it takes any number.
    return names


class GatewayMetrics:
    """Requests by status and errors by kind, as clients see them."""

    def __init__(self) -> None:
        self._requests = Counter(
            "bigbird_requests",
            description="Requests answered, by head and HTTP status.",
            tag_keys=_tags("head", "status"),
        )
        self._errors = Counter(
            "bigbird_errors", description="Failed requests, by head and kind of error.", tag_keys=_tags("head", "kind")
        )
        self._seconds = Histogram(
            "bigbird_request_seconds",
            description="Time from a request's arrival at the gateway to the end of its answer.",
            boundaries=_SECONDS,
            tag_keys=("head",),
        )
        self._in_flight = Gauge("bigbird_requests_in_flight", description="Requests that a gateway is at work on.")
        self._compared = Counter(
            "bigbird_shadow_answers",
            description="Answers that a second head gave too, by whether it said the same.",
            tag_keys=_tags("head", "shadow", "outcome"),
        )
        self._apart = Histogram(
            "bigbird_shadow_difference",
            description="Largest difference of two numbers in the same place of both heads' answers.",
            boundaries=[1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1, 10],
            tag_keys=_tags("head", "shadow"),
        )
        self._retries = Counter(
            "bigbird_retries", description="Calls repeated because a replica went away.", tag_keys=("head",)
        )

    def request(self, head: str, status: int, seconds: float, error_kind: str | None) -> None:
        self._requests.inc(1, tags={"head": head, "status": str(status)})
        self._seconds.observe(max(seconds, 1e-6), tags={"head": head})
        if error_kind is not None:
            self._errors.inc(1, tags={"head": head, "kind": error_kind})

    def in_flight(self, num_requests: int) -> None:
        self._in_flight.set(num_requests)

    def compared(self, head: str, shadow: str, outcome: str, difference: float | None) -> None:
        self._compared.inc(1, tags={"head": head, "shadow": shadow, "outcome": outcome})
        if difference is not None:
            self._apart.observe(max(difference, 1e-9), tags={"head": head, "shadow": shadow})

    def retry(self, head: str) -> None:
        self._retries.inc(1, tags={"head": head})
