"""What a person sees of a running job: a line every few seconds, and what the job waits for while nothing happens.

Does not know units, models or files.
"""

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import ray
from ray.autoscaler.v2.sdk import get_cluster_resource_state

INTERVAL_S = 5.0
MEANINGFUL_ROWS = 20


class Progress:
    """Prints lines from a thread of its own while it is entered, where there is news.

    watch: the job's `pipelines.scoring.actors.watch` actor. needs: resources of one actor, `CPU` and `GPU`.
    """

    def __init__(self, watch: Any, rows: int, needs: Mapping[str, float], out: TextIO) -> None:
        self._watch, self._rows, self._needs, self._out = watch, rows, needs, out
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._first: tuple[float, float, float] | None = None  # when rows were first done, and how many, and tokens

    def __enter__(self) -> "Progress":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        said = ""
        while not self._stop.wait(INTERVAL_S):
            try:
                line = self._line(ray.get(self._watch.snapshot.remote(), timeout=INTERVAL_S), time.monotonic())
            except ray.exceptions.GetTimeoutError:
                line = "waiting for the Ray node of this process to start a worker"
            except (ray.exceptions.RayError, RuntimeError):  # the node or the cluster is gone: the job will say so
                continue
            if line != said:
                print(f"  {line}", file=self._out, flush=True)
            said = line

    def _line(self, seen: Mapping[str, float], now: float) -> str:
        done = min(int(seen["documents"]), self._rows)
        if not done:
            if seen["started"]:
                started = int(seen["started"])
                return f"{started} actor{'s are' if started > 1 else ' is'} loading the model"
            return waiting(self._needs, _cluster(), _free(), _queued())
        line = f"{done:,}/{self._rows:,} documents ({done / self._rows:.0%})  {int(seen['tokens']):,} tokens"
        if self._first is None:
            self._first = (now, done, seen["tokens"])
        began, before, tokens = self._first
        seconds = now - began
        if done > before and seconds:
            left = duration((self._rows - done) * seconds / (done - before))
            # The first estimate of a long job is of few documents: nothing is said until it means something.
            known = done - before >= MEANINGFUL_ROWS or done == self._rows
            line += f"  {(seen['tokens'] - tokens) / seconds:,.0f} tokens/s" + (f"  {left} left" if known else "")
        return f"{line}  {int(seen['errors']):,} errors" if seen["errors"] else line


def waiting(
    needs: Mapping[str, float],
    cluster: Mapping[str, float],
    free: Mapping[str, float],
    queued: Sequence[Mapping[str, float]],
) -> str:
    """Why no actor runs yet: what one needs and what the cluster has of it, where its request is among the queued.

    A cluster that grows by demand may have none of it for minutes, and another job may hold all of it for hours.
    """
    if not any(all(abs(asked.get(name, 0) - needs[name]) < 1e-3 for name in needs) for asked in queued):
        return "starting actors"
    parts = [
        f"{number:g} {name}s, {free.get(name, 0):g} of {cluster.get(name, 0):g} are free"
        for name, number in needs.items()
        if number
    ]
    return f"waiting for an actor ({'; '.join(parts)} in the cluster)"


def _queued() -> list[Mapping[str, float]]:
    """Resources of what is asked of the cluster and nothing has room for, as Ray tells its autoscaler."""
    worker: Any = ray._private.worker.global_worker
    state = get_cluster_resource_state(worker.gcs_client)
    return [dict(asked.request.resources_bundle) for asked in state.pending_resource_requests]


def _cluster() -> Mapping[str, float]:
    resources: Mapping[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return resources


def _free() -> Mapping[str, float]:
    resources: Mapping[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    return resources


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
