"""Whether a model still computes: for `check_health`, which makes Serve replace a replica that does not.

It knows forwards and their failures, not what they compute; thread-safe as far as forwards run on several threads.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

_MAX_CONSECUTIVE_FAILURES = 5


class ModelHealth:
    """Watches every forward that runs inside `watched()`.

    Unhealthy are: five failures in a row, one CUDA error (it leaves the process without its device), and a forward
    that has been running for more than `max_forward_s` seconds.
    """

    def __init__(self, max_forward_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_forward_s = max_forward_s
        self._clock = clock
        self._running: dict[object, float] = {}
        self._num_failures = 0
        self._fatal: Exception | None = None

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Around one forward, on the thread that computes it."""
        forward = object()
        self._running[forward] = self._clock()
        try:
            yield
        except Exception as error:
            self._num_failures += 1
            if "CUDA error" in str(error):
                self._fatal = error
            raise
        else:
            self._num_failures = 0
        finally:
            del self._running[forward]

    def check(self, *, of_process: bool = False) -> None:
        """Raises RuntimeError with the reason where the model is not healthy.

        of_process: failures in a row do not count, which another model of this process does not share.
        """
        if self._fatal is not None:
            raise RuntimeError("the device is lost") from self._fatal
        if not of_process and self._num_failures >= _MAX_CONSECUTIVE_FAILURES:
            raise RuntimeError(f"the last {self._num_failures} forwards failed")
        oldest = min(list(self._running.values()), default=self._clock())
        if (age_s := self._clock() - oldest) > self._max_forward_s:
            raise RuntimeError(f"a forward has been running for {age_s:.0f} s, the limit is {self._max_forward_s:g} s")
