"""How every head is: asked at most once a second, however many ask."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any

from serving.errors import ServingError
from serving.http.routing.heads import Head

_TIMEOUT_S = 3.0
_KEPT_S = 1.0

READY, ASLEEP, NOT_LOADABLE = "ready", "asleep", "cannot be loaded"
# Of each head by its name, its state and what it says of itself.
States = dict[str, tuple[str, dict[str, Any] | None]]


class Probes:
    """The states of all heads: one of those above, or why a head does not answer.

    NOT_LOADABLE is a head of a pool whose checkpoint is at fault: the pool answers for its others.
    """

    def __init__(self, heads: Iterable[Head]) -> None:
        self._heads = tuple(heads)
        self._lock = asyncio.Lock()
        self._states: States = {}
        self._asked = float("-inf")

    async def states(self) -> States:
        """At most a second old."""
        async with self._lock:
            if time.monotonic() - self._asked > _KEPT_S:
                found = await asyncio.gather(*map(_probe, self._heads))
                self._states = dict(zip((head.name for head in self._heads), found, strict=True))
                self._asked = time.monotonic()
            return self._states


async def _probe(head: Head) -> tuple[str, dict[str, Any] | None]:
    # A sleeping head is not woken.
    if head.asleep():
        return ASLEEP, None
    try:
        details = (await head.call("describe", {}, timeout_s=_TIMEOUT_S))["details"]
        if details.get("loaded", True):
            return READY, details
        # Of a pool, which loads it when a request asks for it.
        return (NOT_LOADABLE if "error" in details else ASLEEP), details
    except ServingError as error:
        return error.message, None
