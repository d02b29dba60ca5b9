"""Which heads cannot answer, by what Serve's controller says: for 503 at once instead of a wait for nothing."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ray import serve

logger = logging.getLogger("ray.serve.bigbird")

STATUS_PERIOD_S = 2.0


@dataclass(frozen=True)
class _Seen:
    """What the controller last said of one deployment, and when.

    since: when it was first seen without a replica, or None where it has one. since, at: by the monotonic clock.
    """

    asleep: bool
    num_running: int
    status: str
    since: float | None
    at: float


class Outages:
    """Asks Serve's controller every few seconds, while a head has no replica by what its router knows (`running`, by
    name): Serve's whole status costs as much as a request.

    A head whose replica restarts is given `grace_s` seconds; requests wait for it meanwhile. One that may scale to
    zero is asleep, not down.
    """

    def __init__(
        self, app_name: str, min_replicas: dict[str, int], grace_s: float, running: Mapping[str, int] | None = None
    ) -> None:
        self._app_name = app_name
        self._running = {} if running is None else running
        self._min_replicas = min_replicas
        self._grace_s = grace_s
        self._seen: dict[str, _Seen] = {}

    def outage(self, head: str) -> str | None:
        seen = self._seen.get(head)
        if seen is None or seen.since is None:
            return None
        # Up to the last answer of the controller, not up to now: on a busy machine that answer may be old.
        gone_s = seen.at - seen.since
        if gone_s < self._grace_s:
            return None
        return f"no working replica for {gone_s:.0f} s ({seen.status})"

    def answered(self, head: str) -> None:
        """A replica of this head has just answered: whatever the controller said before is over."""
        seen = self._seen.get(head)
        if seen is not None and seen.since is not None:
            self._seen[head] = replace(seen, since=None)

    def asleep(self, head: str) -> bool:
        seen = self._seen.get(head)
        return seen is not None and seen.asleep

    def num_replicas(self, head: str) -> int:
        """Replicas of this head that run, at least 1."""
        seen = self._seen.get(head)
        return max(1, seen.num_running) if seen is not None else 1

    def watch(self) -> None:
        """Looks for ever, on a thread of its own; a failing question leaves the last answer in place."""
        while True:
            if not self._all_run():
                try:
                    application = serve.status().applications.get(self._app_name)
                    if application is not None:
                        self.update(application.deployments)
                except Exception as error:
                    logger.warning("Serve's status could not be read: %s", error)
            time.sleep(STATUS_PERIOD_S)

    def _all_run(self) -> bool:
        """Whether every head has a replica by what the router knows, which is then taken in."""
        numbers = {head: self._running.get(head, 0) for head in self._min_replicas}
        if not all(numbers.values()):
            return False
        now = time.monotonic()
        self._seen = {head: _Seen(False, number, "running", None, now) for head, number in numbers.items()}
        return True

    def update(self, deployments: dict[str, Any]) -> None:
        """Takes in one status: deployment name (the head's) -> Serve's DeploymentStatusOverview."""
        now = time.monotonic()
        for head, least in self._min_replicas.items():
            overview = deployments.get(head)
            if overview is None:
                continue
            states = {str(getattr(state, "value", state)): count for state, count in overview.replica_states.items()}
            status = str(getattr(overview.status, "value", overview.status))
            num_running = states.get("RUNNING", 0)
            failing = status in ("UNHEALTHY", "DEPLOY_FAILED")
            asleep = not num_running and least == 0 and not failing
            before = self._seen.get(head)
            since = None
            if not num_running and not asleep:
                since = before.since if before is not None and before.since is not None else now
            self._seen[head] = _Seen(asleep, num_running, status.lower(), since, now)
