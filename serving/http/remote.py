"""The way from the gateway to a head through Ray: retries, time limits, and who is down.

It knows Ray Serve's handles and exceptions, and turns every way a call can fail into a `ServingError`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

from ray.exceptions import ActorDiedError, RayActorError, RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle

from serving.errors import ServingError

logger = logging.getLogger("ray.serve.bigbird")

_POLL_S = 1.0

# An input that kills whoever computes it must not go through every replica there is.
_MAX_LOST_REPLICAS = 5

_LOST = (RayActorError, ReplicaUnavailableError)
_FAILED = (RayError, BackPressureError, DeploymentUnavailableError)


class KnownOutages(Protocol):
    """Where a RemoteHead asks about its deployment."""

    def outage(self, task: str) -> str | None: ...

    def asleep(self, task: str) -> bool: ...

    def answered(self, task: str) -> None: ...


class RemoteHead:
    """A head behind a Serve deployment handle.

    `outage` says whether the deployment is known to be down: waiting for a replica that restarts is worth the
    client's time, waiting for one that cannot start is not.
    """

    def __init__(
        self,
        task: str,
        handle: DeploymentHandle[Any],
        *,
        outages: KnownOutages,
        on_retry: Callable[[str], None],
    ) -> None:
        self.task = task
        self._handle = handle
        self._streaming = handle.options(stream=True)
        self._outages = outages
        self._on_retry = on_retry

    def outage(self) -> str | None:
        return self._outages.outage(self.task)

    def asleep(self) -> bool:
        return self._outages.asleep(self.task)

    async def call(self, method: str, request: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        deadline = time.monotonic() + timeout_s
        for attempt in itertools.count():
            left_s = max(0.0, deadline - time.monotonic())
            self._refuse_when_down()
            response = getattr(self._handle, method).remote({**request, "timeout_s": left_s})
            try:
                outcome: dict[str, Any] = await self._within(response, response, deadline, timeout_s)
            except _LOST as error:
                await self._lost(error, attempt)
                continue
            except _FAILED as error:
                raise self._translated(error) from error
            self._outages.answered(self.task)
            return _unwrapped(outcome)
        raise AssertionError("unreachable")

    async def stream(self, method: str, request: dict[str, Any], *, timeout_s: float) -> AsyncIterator[dict[str, Any]]:
        deadline = time.monotonic() + timeout_s
        for attempt in itertools.count():
            left_s = max(0.0, deadline - time.monotonic())
            self._refuse_when_down()
            response = getattr(self._streaming, method).remote({**request, "timeout_s": left_s})
            begun = finished = False
            try:
                iterator = aiter(response)
                while True:
                    try:
                        outcome = await self._within(response, anext(iterator), deadline, timeout_s)
                    except StopAsyncIteration:
                        break
                    begun = True
                    yield _unwrapped(outcome)
                finished = True
                return
            except _LOST as error:
                if begun:
                    raise self._translated(error) from error
                await self._lost(error, attempt)
            except _FAILED as error:
                raise self._translated(error) from error
            finally:
                if not finished:
                    response.cancel()

    async def _within(self, response: Any, awaitable: Awaitable[Any], deadline: float, timeout_s: float) -> Any:
        """What a replica says; cancels the whole call when the time is over, or the head goes down, or nobody waits."""
        task = asyncio.ensure_future(awaitable)
        try:
            while True:
                left_s = deadline - time.monotonic()
                done, _ = await asyncio.wait({task}, timeout=max(0.0, min(_POLL_S, left_s)))
                if done:
                    return task.result()
                if left_s <= 0:
                    raise self._too_late(timeout_s)
                self._refuse_when_down()
        finally:
            if not task.done():
                response.cancel()
                task.cancel()

    async def _lost(self, error: Exception, attempt: int) -> None:
        """A replica went away with the call: waits a moment before the next, or gives up on a call that kills them."""
        if isinstance(error, ActorDiedError) and attempt + 1 >= _MAX_LOST_REPLICAS:
            raise self._translated(error) from error
        self._on_retry(self.task)
        logger.warning("replica of %s lost a call (%s); trying another", self.task, type(error).__name__)
        await asyncio.sleep(min(0.05 * 2**attempt, 1.0))

    def _refuse_when_down(self) -> None:
        reason = self.outage()
        if reason is not None:
            raise ServingError("head_unavailable", f"{self.task}: {reason}", retry_after_s=10)

    def _too_late(self, timeout_s: float) -> ServingError:
        return ServingError("deadline_exceeded", f"{self.task} did not answer within {timeout_s:.3g} s")

    def _translated(self, error: Exception) -> ServingError:
        if isinstance(error, BackPressureError):
            return ServingError("overloaded", f"{self.task}: too many requests are waiting", retry_after_s=1)
        if isinstance(error, DeploymentUnavailableError):
            return ServingError("head_unavailable", f"{self.task} failed to start", retry_after_s=10)
        if isinstance(error, RayActorError | ReplicaUnavailableError):
            return ServingError("head_unavailable", f"the replica of {self.task} went away", retry_after_s=1)
        if isinstance(error, RayTaskError):
            logger.error("%s failed: %s", self.task, error)
            return ServingError("internal", f"{self.task} failed; the server's log has the reason")
        logger.error("%s could not be reached: %s", self.task, error)
        return ServingError("head_unavailable", f"{self.task} could not be reached", retry_after_s=1)


def _unwrapped(outcome: dict[str, Any]) -> dict[str, Any]:
    """A replica's answer, or the failure it stands for, raised."""
    if "failure" in outcome:
        raise ServingError.from_wire(outcome["failure"])
    return outcome
