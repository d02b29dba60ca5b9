"""Looks, while a job works on a batch, whether the batch has to end: cancelled, given up, or past its time."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from serving.batches.batches import Batch

_LOOK_S = 3.0


class Watch:
    """A context: meanwhile a thread looks every few seconds. ending: the status to end with, None before that."""

    def __init__(self, batch: Batch) -> None:
        self.ending: str | None = None
        self._batch = batch
        self._on_look: Callable[[], None] | None = None
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)

    def __enter__(self) -> Watch:
        self.ending = self._batch.must_end()
        self._thread.start()
        return self

    def __exit__(self, *exc: Any) -> None:
        self._stop.set()
        self._thread.join()

    def run(self, work: Callable[[], None], on_look: Callable[[], None]) -> None:
        """Runs `work` in the main thread, and stops it as Ctrl-C does once the batch has to end.

        on_look: called at each look. Its exceptions are dropped: storage that fails stops `work` as well.
        """
        # What a shell starts in the background inherits an ignored SIGINT; Ray Train leaves a handler of its own.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with self._lock:
                if self.ending is not None:
                    return
                self._on_look = on_look
            work()
            with self._lock:
                self._on_look = None
            if self.ending is not None:
                time.sleep(1.0)  # the signal may still be on its way
        except KeyboardInterrupt:
            if self.ending is None:
                raise
        finally:
            with self._lock:
                self._on_look = None
            signal.signal(signal.SIGINT, before)

    def _look(self) -> None:
        while self.ending is None and not self._stop.wait(_LOOK_S):
            with suppress(Exception), self._lock:
                if self._on_look is not None:
                    self._on_look()
            with suppress(Exception):
                ending = self._batch.must_end()
                with self._lock:
                    self.ending = ending
                    if ending is not None and self._on_look is not None:
                        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
