"""Names that lead to one of several models: shares of the requests, and a model that is asked beside them.

It knows heads and records, not what a record means.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from serving.errors import ServingError
from serving.http.routing.heads import Head
from serving.settings import RouteArguments

logger = logging.getLogger("ray.serve.bigbird")

# Answers that wait for their comparison hold memory; beyond so many the next is not compared.
_MAX_COMPARED = 32
# Two numbers so near are the same: a batch of other lengths adds in another order.
_SAME = 1e-3

# Told of every comparison: the head that answered, the one beside it, the outcome, and how far numbers lie apart.
OnCompared = Callable[[str, str, str, float | None], None]


@dataclass(frozen=True, kw_only=True)
class Route:
    """A name whose requests go to these heads of one task, each to its share of them."""

    name: str
    task: str
    shares: tuple[tuple[Head, float], ...]

    def head_for(self, request_id: str) -> Head:
        """Always the same one for the same id, in every gateway: a request that is sent again stays where it was."""
        drawn = int.from_bytes(sha256(f"{self.name} {request_id}".encode()).digest()[:8]) / 2**64
        left = drawn * sum(share for _, share in self.shares)
        chosen = self.shares[0][0]
        for head, share in self.shares:
            if share and left >= 0:
                chosen = head
            left -= share
        return chosen


def routes_to(
    heads: Mapping[str, Head], arguments: Mapping[str, RouteArguments], on_compared: OnCompared
) -> list[Route]:
    """The routes of the settings, which have been checked: every head there is, all of a route of one task."""

    def watched(head: Head, shadow: str | None) -> Head:
        return Watched(head, heads[shadow], on_compared) if shadow else head

    return [
        Route(
            name=name,
            task=heads[next(iter(route.split))].task,
            shares=tuple((watched(heads[head], route.shadow), share) for head, share in route.split.items()),
        )
        for name, route in arguments.items()
    ]


class Watched:
    """A head whose answers a second head gives too, afterwards and unseen: what differs is counted and logged.

    The answer never waits for the second head and never fails with it.
    """

    def __init__(self, head: Head, shadow: Head, on_compared: OnCompared) -> None:
        self.name = head.name
        self.task = head.task
        self._head = head
        self._shadow = shadow
        self._on_compared = on_compared
        self._comparisons: set[asyncio.Task[None]] = set()
        self.outage = head.outage
        self.asleep = head.asleep

    async def call(self, method: str, request: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        outcome = await self._head.call(method, request, timeout_s=timeout_s)
        if "records" in outcome:
            if len(self._comparisons) >= _MAX_COMPARED:
                self._on_compared(self.name, self._shadow.name, "left out", None)
            else:
                comparing = asyncio.create_task(self._compare(method, request, outcome["records"], timeout_s))
                self._comparisons.add(comparing)
                comparing.add_done_callback(self._comparisons.discard)
        return outcome

    def stream(self, method: str, request: dict[str, Any], *, timeout_s: float) -> AsyncIterator[dict[str, Any]]:
        return self._head.stream(method, request, timeout_s=timeout_s)

    async def _compare(self, method: str, request: dict[str, Any], records: list[Any], timeout_s: float) -> None:
        apart: float | None = None
        try:
            other = await self._shadow.call(method, request, timeout_s=timeout_s)
            apart = await asyncio.to_thread(distance, records, other["records"])
            outcome = "same" if apart <= _SAME else "different"
        except ServingError as error:
            outcome = error.kind
        except Exception as error:
            logger.error("shadow %s of %s failed", self._shadow.name, self.name, exc_info=error)
            outcome = "internal"
        apart = apart if apart is not None and math.isfinite(apart) else None
        self._on_compared(self.name, self._shadow.name, outcome, apart)
        logger.info(
            "shadow %s of %s: %s %s",
            self._shadow.name,
            self.name,
            outcome,
            request["request_id"],
            extra={
                "bigbird_request_id": request["request_id"],
                "head": self.name,
                "shadow": self._shadow.name,
                "outcome": outcome,
                "difference": apart,
            },
        )


def distance(left: Any, right: Any) -> float:
    """How far the numbers of two records lie apart at most; infinite where anything else differs."""
    if isinstance(left, dict) and isinstance(right, dict) and left.keys() == right.keys():
        return max((distance(left[name], right[name]) for name in left), default=0.0)
    if isinstance(left, list | tuple) and isinstance(right, list | tuple) and len(left) == len(right):
        return max(map(distance, left, right), default=0.0)
    if isinstance(left, float) and isinstance(right, float):
        return abs(left - right) if left != right else 0.0
    return 0.0 if left == right else math.inf
