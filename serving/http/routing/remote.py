"""The way from the gateway to a head through Ray: retries, time limits, and who is down.

It knows Ray Serve's handles and exceptions, and turns every way a call can fail into a `ServingError`.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from ray.exceptions import ActorDiedError, RayActorError, RayError, RayTaskError
from ray.serve.context import _set_request_context
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle

from serving.errors import ServingError
from serving.http.routing.outages import Outages
from serving.http.routing.refusals import Refusals

logger = logging.getLogger("ray.serve.bigbird")

_POLL_S = 1.0

# Replicas that may die with a request: one whose computation kills must not go through all there are.
_MAX_LOST_REPLICAS = 3

# Replicas that may refuse a request before its client hears of it.
_MAX_REFUSALS = 8

_LOST = (RayActorError, ReplicaUnavailableError)
_FAILED = (RayError, BackPressureError, DeploymentUnavailableError)


@dataclass
class _Attempts:
    """One request's way through the replicas of a head: its time, which refused it, which died of it."""

    deadline: float
    timeout_s: float
    refused_by: set[str] = field(default_factory=set)
    died: set[str] = field(default_factory=set)
    num_lost: int = 0

    @property
    def left_s(self) -> float:
        return max(0.0, self.deadline - time.monotonic())


class RemoteHead:
    """A head behind a Serve deployment handle.

    `outages` knows whether the deployment is down: waiting for a replica that restarts is worth the
    client's time, waiting for one that cannot start is not. pooled: of a head of a pool, its name, id and arguments;
    they go with every request, so that the pool, whose deployment answers, need not know its heads.
    """

    def __init__(
        self,
        name: str,
        task: str,
        handle: DeploymentHandle[Any],
        *,
        pooled: dict[str, Any] | None = None,
        outages: Outages,
        on_retry: Callable[[str], None],
    ) -> None:
        self.name = name
        self.task = task
        self._deployment = handle.deployment_name
        self._own = {} if pooled is None else {"head": pooled}
        if pooled is not None:
            handle = handle.options(multiplexed_model_id=pooled["id"])
        self._handle = handle
        self._streaming = handle.options(stream=True)
        self._outages = outages
        self._refusals = Refusals()
        self._on_retry = on_retry

    def outage(self) -> str | None:
        return self._outages.outage(self._deployment)

    def asleep(self) -> bool:
        return self._outages.asleep(self._deployment)

    async def call(self, method: str, request: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        attempts = _Attempts(time.monotonic() + timeout_s, timeout_s)
        while True:
            response = _begun(getattr(self._handle, method), self._next(request, attempts))
            try:
                outcome: dict[str, Any] = await self._within(response, response, attempts)
            except _LOST as error:
                await self._lost(error, attempts)
                continue
            except _FAILED as error:
                raise self._translated(error) from error
            self._outages.answered(self._deployment)
            if not self._refused(outcome, attempts):
                return _unwrapped(outcome)

    async def stream(self, method: str, request: dict[str, Any], *, timeout_s: float) -> AsyncIterator[dict[str, Any]]:
        attempts = _Attempts(time.monotonic() + timeout_s, timeout_s)
        while True:
            response = _begun(getattr(self._streaming, method), self._next(request, attempts))
            begun = finished = False
            try:
                iterator = aiter(response)
                while True:
                    try:
                        outcome = await self._within(response, anext(iterator), attempts)
                    except StopAsyncIteration:
                        finished = True
                        return
                    if not begun and self._refused(outcome, attempts):
                        break
                    begun = True
                    yield _unwrapped(outcome)
            except _LOST as error:
                if begun:
                    raise self._translated(error) from error
                await self._lost(error, attempts)
            except _FAILED as error:
                raise self._translated(error) from error
            finally:
                if not finished:
                    response.cancel()

    def _next(self, request: dict[str, Any], attempts: _Attempts) -> dict[str, Any]:
        """What the next replica gets; `around_refusals` reads `refused_by`."""
        self._refuse_when_down()
        refused_by = attempts.refused_by | self._refusals.replicas()
        return {**request, **self._own, "timeout_s": attempts.left_s, "refused_by": tuple(refused_by)}

    def _refused(self, outcome: dict[str, Any], attempts: _Attempts) -> bool:
        """Whether a replica is too busy for the request and another one may take it."""
        failure = outcome.get("failure")
        if failure is None or failure["kind"] != "overloaded":
            return False
        replica, num_replicas = outcome["replica"], self._outages.num_replicas(self._deployment)
        self._refusals.remember(replica, failure["busy_s"])
        again = replica in attempts.refused_by
        attempts.refused_by.add(replica)
        if not again and len(attempts.refused_by) < min(num_replicas, _MAX_REFUSALS):
            return True
        failure["busy_s"] = self._refusals.busy_s(num_replicas)
        return False

    async def _within(self, response: Any, awaitable: Awaitable[Any], attempts: _Attempts) -> Any:
        """What a replica says; cancels the call when the time is over, the head goes down, or the client leaves."""
        task = asyncio.ensure_future(awaitable)
        # A call that was given up may still fail; asyncio prints an exception that is never retrieved.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            while True:
                left_s = attempts.left_s
                done, _ = await asyncio.wait({task}, timeout=min(_POLL_S, left_s))
                if done:
                    return task.result()
                if left_s <= 0:
                    reason = f"{self.name} did not answer within {attempts.timeout_s:.3g} s"
                    raise ServingError("deadline_exceeded", reason)
                self._refuse_when_down()
        finally:
            if not task.done():
                response.cancel()
                task.cancel()

    async def _lost(self, error: RayActorError | ReplicaUnavailableError, attempts: _Attempts) -> None:
        """A replica went away with the call: waits a moment before the next, or gives up after too many deaths."""
        if isinstance(error, ActorDiedError):
            attempts.died.add(str(error.actor_id))
        if len(attempts.died) >= _MAX_LOST_REPLICAS:
            raise self._translated(error) from error
        self._on_retry(self.name)
        logger.warning("replica of %s lost a call (%s); trying another", self.name, type(error).__name__)
        await asyncio.sleep(min(0.05 * 2**attempts.num_lost, 1.0))
        attempts.num_lost += 1

    def _refuse_when_down(self) -> None:
        reason = self.outage()
        if reason is not None:
            raise ServingError("head_unavailable", f"{self.name}: {reason}", retry_after_s=10)

    def _translated(self, error: Exception) -> ServingError:
        if isinstance(error, BackPressureError):
            return ServingError("overloaded", f"{self.name}: too many requests are waiting", retry_after_s=1)
        if isinstance(error, DeploymentUnavailableError):
            return ServingError("head_unavailable", f"{self.name} failed to start", retry_after_s=10)
        if isinstance(error, RayActorError | ReplicaUnavailableError):
            return ServingError("head_unavailable", f"the replica of {self.name} went away", retry_after_s=1)
        if isinstance(error, RayTaskError):
            logger.error("%s failed: %s", self.name, error)
            return ServingError("internal", f"{self.name} failed; the server's log has the reason")
        logger.error("%s could not be reached: %s", self.name, error)
        return ServingError("head_unavailable", f"{self.name} could not be reached", retry_after_s=1)


def _begun(method: DeploymentHandle[Any], request: dict[str, Any]) -> Any:
    """The call, under an id of its own.

    Serve's router tells calls apart by an id that all calls of one client's request share: of two at once to a
    deployment, it would never send one.
    """

    def begin() -> Any:
        _set_request_context(_internal_request_id=uuid.uuid4().hex)
        return method.remote(request)

    return contextvars.copy_context().run(begin)


def _unwrapped(outcome: dict[str, Any]) -> dict[str, Any]:
    """A replica's answer, or the failure it stands for, raised."""
    if "failure" in outcome:
        raise ServingError.from_wire(outcome["failure"])
    return outcome
