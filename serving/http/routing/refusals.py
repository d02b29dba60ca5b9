"""Which replicas of a head refuse every request just now, by what they last said."""

from __future__ import annotations

import time
from collections.abc import Callable


class Refusals:
    """Remembers for each replica until when it refuses every request."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}

    def remember(self, replica: str, busy_s: float) -> None:
        """`replica` refuses every request for `busy_s` seconds from now."""
        self._until[replica] = self._clock() + busy_s

    def replicas(self) -> set[str]:
        """Those that refuse now."""
        now = self._clock()
        self._until = {replica: until for replica, until in self._until.items() if until > now}
        return set(self._until)

    def busy_s(self, num_replicas: int) -> float:
        """For how long every one of `num_replicas` replicas refuses every request; 0 where one may take some."""
        refusing = self.replicas()
        if len(refusing) < num_replicas:
            return 0.0
        return max(0.0, min(self._until.values()) - self._clock())
