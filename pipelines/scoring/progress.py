"""What a person sees of a running job: a line every few seconds, and what the job waits for while nothing happens.

Does not know units, models or files.
"""

import threading
import time
from collections.abc import Mapping
from typing import Any, TextIO

import ray

INTERVAL_S = 5.0


class Progress:
    """Prints lines from a thread of its own while it is entered.

    watch: the job's `pipelines.scoring.actors.watch` actor. needs: resources of one actor, `CPU` and `GPU`.
    """

    def __init__(self, watch: Any, rows: int, needs: Mapping[str, float], out: TextIO) -> None:
        self._watch, self._rows, self._needs, self._out = watch, rows, needs, out
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Progress":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        began = time.monotonic()
        while not self._stop.wait(INTERVAL_S):
            try:
                seen = ray.get(self._watch.snapshot.remote(), timeout=INTERVAL_S)
                line = self._line(seen, time.monotonic() - began)
            except ray.exceptions.GetTimeoutError:
                line = "waiting for the Ray node of this process to start a worker"
            except (ray.exceptions.RayError, RuntimeError):  # the node or the cluster is gone: the job will say so
                continue
            print(f"  {line}", file=self._out, flush=True)

    def _line(self, seen: Mapping[str, float], seconds: float) -> str:
        done = min(int(seen["documents"]), self._rows)
        if done:
            left = f"{duration((self._rows - done) * seconds / done)} left"
        elif seen["started"]:
            left = "loading the model"
        else:
            left = waiting(self._needs, ray.cluster_resources(), ray.available_resources())  # type: ignore[no-untyped-call]
        line = f"{done:,}/{self._rows:,} documents ({done / self._rows:.0%})  {int(seen['tokens']):,} tokens"
        return f"{line}  {seen['tokens'] / seconds:,.0f} tokens/s  {int(seen['errors']):,} errors  {left}"


def waiting(needs: Mapping[str, float], cluster: Mapping[str, float], free: Mapping[str, float]) -> str:
    """Why no actor runs yet: what one needs, and what the cluster has of it.

    A cluster that grows by demand may have none of it for minutes, and another job may hold all of it for hours.
    """
    parts = [
        f"{number:g} {name}s, {free.get(name, 0):g} of {cluster.get(name, 0):g} are free"
        for name, number in needs.items()
        if number
    ]
    return f"waiting for an actor ({'; '.join(parts)} in the cluster)"


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
