"""One small actor that sees a job as a whole: how far it is, and which rows kill the processes that score them.

    healthy unit          begin -> finish                          two messages a unit
    unit that lost its    begin -> enter(0, 1024) -> ...           a message a window, so that the next death
    process once                                                   is charged to one window
    window that did       enter(17, 18) -> enter(18, 19) -> ...    a message a row
    row that did twice    is in the verdict's `marked` and is not scored again

It runs beside the driver and dies with it: a job started anew starts with a clean slate. Losing a message costs
a progress figure or one more attempt, never a row, so senders do not wait for answers where they need none.

Does not know files, models or what is in a row.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

DEATHS_TO_MARK_A_ROW = 2


@dataclass(frozen=True)
class Verdict:
    """What a process learns when it begins a unit. Rows count within the unit.

    deaths: processes lost on it so far. suspects: windows in which one was lost, to be scored row by row.
    marked: rows not to be scored again.
    """

    deaths: int = 0
    suspects: tuple[tuple[int, int], ...] = ()
    marked: frozenset[int] = frozenset()


@dataclass
class _Attempts:
    running: bool = False
    inside: tuple[int, int] | None = None
    deaths: int = 0
    deaths_in: dict[tuple[int, int], int] = field(default_factory=dict)


class WatchState:
    """The state of `Watch`, without Ray."""

    def __init__(self) -> None:
        self._attempts: dict[str, _Attempts] = {}
        self._workers: dict[str, dict[str, float]] = {}

    def begin(self, unit: str) -> Verdict:
        """A process begins a unit. Beginning one that has not finished means its last process is gone."""
        attempts = self._attempts.setdefault(unit, _Attempts())
        if attempts.running:
            attempts.deaths += 1
            if attempts.inside is not None:
                attempts.deaths_in[attempts.inside] = attempts.deaths_in.get(attempts.inside, 0) + 1
        attempts.running, attempts.inside = True, None
        single = {start: n for (start, stop), n in attempts.deaths_in.items() if stop - start == 1}
        return Verdict(
            attempts.deaths,
            tuple(sorted(window for window in attempts.deaths_in if window[1] - window[0] > 1)),
            frozenset(row for row, deaths in single.items() if deaths >= DEATHS_TO_MARK_A_ROW),
        )

    def enter(self, unit: str, start: int, stop: int) -> None:
        """The process of a unit is about to score rows [start, stop)."""
        # Of a unit it knows nothing about: this process is a new one, and its predecessor was killed.
        self._attempts.setdefault(unit, _Attempts(running=True)).inside = (start, stop)

    def finish(self, unit: str) -> None:
        """The unit is written."""
        self._attempts.pop(unit, None)

    def progress(self, worker: str, counts: Mapping[str, float]) -> None:
        """Totals of one process so far: documents, tokens, errors, busy_s; each report replaces the last."""
        self._workers[worker] = {**counts, "seen": time.time()}

    def snapshot(self) -> dict[str, Any]:
        """Sums over all processes, those that are gone included; how many ever started, and reported a minute ago."""
        totals = dict.fromkeys(("documents", "tokens", "errors", "busy_s"), 0.0)
        for counts in self._workers.values():
            for key in totals:
                totals[key] += counts.get(key, 0)
        recent = time.time() - 60
        workers = sum(counts["seen"] > recent for counts in self._workers.values())
        return {**totals, "started": len(self._workers), "workers": workers}


def start_watch() -> Any:
    """Start the actor on this node, at no CPU's cost. Needs `ray.init`."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(WatchState)
    return actor.options(num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here).remote()


def split_windows(windows: Sequence[tuple[int, int]], suspects: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The windows, each that overlaps a suspect one row by row."""
    result: list[tuple[int, int]] = []
    for start, stop in windows:
        if any(low < stop and start < high for low, high in suspects):
            result += [(row, row + 1) for row in range(start, stop)]
        else:
            result.append((start, stop))
    return result
