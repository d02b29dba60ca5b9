"""What the gateway sees of a head: the seam between HTTP and whatever computes. It knows neither side."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol


class Head(Protocol):
    """One model with its task, served somewhere under a name of its own."""

    name: str
    task: str

    async def call(self, method: str, request: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        """The replica's answer; safe to repeat. Raises ServingError."""
        ...

    def stream(self, method: str, request: dict[str, Any], *, timeout_s: float) -> AsyncIterator[dict[str, Any]]:
        """The replica's answers one by one; never repeated once one has come. Raises ServingError."""
        ...

    def outage(self) -> str | None:
        """Why the head cannot answer at all, or None."""
        ...

    def asleep(self) -> bool:
        """Whether the head has scaled to zero replicas."""
        ...
