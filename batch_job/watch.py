"""Looks, while rows are scored, whether the batch was cancelled or its time is over."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from serving.batches.batches import Batch

_LOOK_S = 3.0


class Watch:
    """Ends what runs while it is entered, when the batch has to end; afterwards `reason` is `cancelled` or `expired`.

    on_look: called now and then, for progress. Entered in the main thread, which gets the signal of a Ctrl-C.
    """

    def __init__(self, batch: Batch, on_look: Callable[[], None]) -> None:
        self.reason: str | None = None
        self._batch, self._on_look = batch, on_look
        self._expires_at = batch.request["expires_at"]
        self._lock = threading.Lock()
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)

    def must_end(self) -> str | None:
        """Why the batch has to end, None where it may go on."""
        if self._batch.read("cancel") is not None:
            return "cancelled"
        return "expired" if time.time() > self._expires_at else None

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        with self._lock:
            self._left.set()
        if self.reason is not None and kind is None:
            with suppress(KeyboardInterrupt):  # which is on its way
                time.sleep(1.0)
        self._thread.join()
        return self.reason is not None

    def _look(self) -> None:
        while not self._left.wait(_LOOK_S):
            try:
                reason = self.must_end()
                self._on_look()
            except Exception:
                continue  # of the storage; what is scored cannot be written either, and says why
            with self._lock:
                if reason is not None and not self._left.is_set():
                    self.reason = reason
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                    return
