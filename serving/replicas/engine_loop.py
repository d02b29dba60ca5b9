"""Drives a generation engine from an event loop: requests come and go between its steps, on one model thread.

It knows the engine's calls (`submit`, `step`, `cancel`, `is_waiting`, `has_work`, `stats`) and nothing of Ray or HTTP,
so it is tested with a fake engine in milliseconds.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from serving.errors import ServingError, overloaded
from serving.replicas import spans
from serving.replicas.health import ModelHealth

logger = logging.getLogger("ray.serve.bigbird")


class EngineLoop:
    """Many callers of `generate`, one engine.

    max_waiting: requests that may wait for a slot; with more, `check` refuses.
    max_wait_s: so does it where a request would wait longer for a slot, by the time the last ones held theirs.
    max_step_s: a step that runs longer makes `check_health` raise.
    on_step(num_events): called after every step, for metrics.
    """

    def __init__(
        self,
        engine: Any,
        *,
        max_waiting: int,
        max_wait_s: float = float("inf"),
        max_step_s: float = float("inf"),
        on_step: Callable[[int], None] = lambda num_events: None,
    ) -> None:
        self._engine = engine
        self._max_waiting = max_waiting
        self._max_wait_s = max_wait_s
        self._on_step = on_step
        self._health = ModelHealth(max_step_s)
        self._held_s: float | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._submissions: list[tuple[Sequence[int], Any, asyncio.Future[int]]] = []
        self._cancellations: list[int] = []
        self._events: dict[int, asyncio.Queue[Any]] = {}
        # Of traced requests: when the first step that served each began; None while it waits.
        self._admitted_at: dict[int, float | None] = {}
        self._wake = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self.broken: Exception | None = None

    @property
    def num_open(self) -> int:
        """Requests that have not ended, waiting or running."""
        return len(self._events) + len(self._submissions)

    async def generate(self, prompt_ids: Sequence[int], options: Any) -> AsyncIterator[Any]:
        """The engine's events of one request as they come; the last has a finish_reason.

        Closing the iterator early, or cancelling whoever reads it, frees the request's slot at the next step.
        Raises what the engine's `submit` raises, and ServingError `internal` when the engine breaks.
        A traced request gets the spans `queue`, `prefill` and `decode`.
        """
        self._refuse_when_broken()
        place, arrived = spans.place_of_request(), time.monotonic()
        accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        submission = (prompt_ids, options, accepted)
        self._submissions.append(submission)
        self._start()
        try:
            request_id = await accepted
        except asyncio.CancelledError:
            if submission in self._submissions:
                self._submissions.remove(submission)
            elif accepted.done() and not accepted.cancelled() and accepted.exception() is None:
                self._leave(accepted.result())
            raise
        events = self._events[request_id]
        if place is not None:
            self._admitted_at[request_id] = None
        finished = False
        started: float | None = None
        num_tokens = 0
        try:
            while not finished:
                event = await events.get()
                if started is None:
                    started = time.monotonic()
                    if (admitted := self._admitted_at.get(request_id)) is not None:
                        spans.record(place, "queue", admitted - arrived, ended=admitted)
                        spans.record(place, "prefill", started - admitted, ended=started, num_tokens=len(prompt_ids))
                if isinstance(event, Exception):
                    raise event
                num_tokens += event.token_id is not None
                finished = event.finish_reason is not None
                yield event
        finally:
            if started is not None:
                held_s = time.monotonic() - started
                self._held_s = held_s if self._held_s is None else 0.9 * self._held_s + 0.1 * held_s
                spans.record(place, "decode", held_s, num_tokens=num_tokens)
            self._admitted_at.pop(request_id, None)
            del self._events[request_id]
            if not finished:
                self._cancellations.append(request_id)
                self._wake.set()

    def check(self) -> None:
        """Raises ServingError `overloaded` where one more request would wait too long, `head_unavailable` where none
        can run. Asked once for all that belongs together, so that an idle engine takes any number of it."""
        self._refuse_when_broken()
        stats = self._engine.stats
        num_waiting = stats.num_waiting + len(self._submissions)
        if not num_waiting:
            return
        num_running = max(1, stats.num_running)
        wait_s = (num_waiting + 1) * (self._held_s or 0.0) / num_running
        reason = None
        if num_waiting >= self._max_waiting:
            reason = f"{num_waiting} requests wait for a slot, the limit is {self._max_waiting}"
        elif wait_s > self._max_wait_s:
            reason = f"the wait for a slot would be {wait_s:.1f} s, the limit is {self._max_wait_s:g} s"
        if reason is not None:
            raise overloaded(reason, wait_s, for_all=True)

    def check_health(self) -> None:
        """Raises RuntimeError where the engine broke or a step runs for too long."""
        if self.broken is not None:
            raise RuntimeError("the engine broke") from self.broken
        self._health.check()

    async def close(self) -> None:
        """Stops after the step that is running; readers see an internal error."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        self._thread.shutdown(wait=True)

    def _leave(self, request_id: int) -> None:
        self._events.pop(request_id, None)
        self._cancellations.append(request_id)
        self._wake.set()

    def _refuse_when_broken(self) -> None:
        if self.broken is not None:
            raise ServingError("head_unavailable", "the engine is broken and will be replaced", retry_after_s=10)

    def _start(self) -> None:
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        self._wake.set()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            # Only here, between two steps, does anything but a step touch the engine.
            self._apply()
            if not self._engine.has_work:
                self._wake.clear()
                await self._wake.wait()
                continue
            began = time.monotonic()
            try:
                events = await loop.run_in_executor(self._thread, self._step)
            except Exception as error:
                logger.exception("the engine broke")
                self._break(error)
                return
            for request_id, admitted in self._admitted_at.items():
                if admitted is None and not self._engine.is_waiting(request_id):
                    self._admitted_at[request_id] = began
            for event in events:
                queue = self._events.get(event.request_id)
                if queue is not None:
                    queue.put_nowait(event)
            self._on_step(sum(event.token_id is not None for event in events))

    def _step(self) -> Any:
        with self._health.watched():
            return self._engine.step()

    def _apply(self) -> None:
        cancellations, self._cancellations = self._cancellations, []
        for request_id in cancellations:
            self._engine.cancel(request_id)
        submissions, self._submissions = self._submissions, []
        for prompt_ids, options, accepted in submissions:
            if accepted.cancelled():
                continue
            try:
                request_id = self._engine.submit(prompt_ids, options)
            except Exception as error:
                accepted.set_exception(error)
                continue
            self._events[request_id] = asyncio.Queue()
            accepted.set_result(request_id)

    def _break(self, error: Exception) -> None:
        self.broken = error
        failure = ServingError("internal", "generation failed; the server's log has the reason")
        for queue in self._events.values():
            queue.put_nowait(failure)
        for _, _, accepted in self._submissions:
            if not accepted.done():
                accepted.set_exception(failure)
        self._submissions.clear()
