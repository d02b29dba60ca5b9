"""How `bigbird-serve` ends: SIGINT and SIGTERM let it finish what it accepted, a second one ends it at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType

from ray import serve

APP_NAME = "bigbird"


class StopRequested(BaseException):
    """Raised in the main thread by the first signal, wherever that is."""


class StopSignals:
    """The handlers of both signals."""

    def __init__(self) -> None:
        self._requested = False

    def install(self) -> None:
        """Puts the handlers in place; again after Ray has put its own there."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def wait(self) -> None:
        """Until a signal comes."""
        threading.Event().wait()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._requested:
            # Ray's own processes notice that this one is gone.
            os._exit(128 + number)
        self._requested = True
        raise StopRequested


def drain() -> None:
    """Ends the application once what it accepted is answered, then Serve.

    In this order: `serve.shutdown` would first end the proxy, through which the answers go.
    """
    try:
        serve.delete(APP_NAME)
    except Exception as error:  # of Ray, Serve or neither: it may not have started yet
        print(f"bigbird-serve: {error}", file=sys.stderr)
    serve.shutdown()  # type: ignore[no-untyped-call]
