"""A queue in front of one model that forms batches by tokens, not by requests.

Pure asyncio: it knows neither Ray, HTTP nor models. A request is a list of pieces with known token counts; `run`
computes a list of pieces and is never entered twice at once.

Who is next. A request may use one batch's worth of tokens a round, and what it needs beyond that belongs to
later rounds; pieces are taken by (round, arrival). So requests that fit one batch are served strictly first come,
first served; a request of twenty batches keeps its place and takes one batch a round, and a short request that
arrives meanwhile waits for one batch of it, not for twenty. The piece in front always goes into the next batch,
however large, so nothing starves. There is no waiting time for a batch to fill: while the model computes, the
next batch collects by itself.

What is never computed: pieces of requests whose caller has left or whose deadline has passed, and, while others
wait, of requests whose deadline cannot be met by the measured time of a batch. A request that is alone is computed
whatever the estimate says. What is refused at the door: requests beyond the bounds of the queue.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from serving.errors import ServingError, overloaded
from serving.replicas.batch_time import BatchTime
from serving.replicas.queue_limits import QueueLimits


@dataclass(frozen=True, kw_only=True)
class BatchReport:
    """What one batch took: for metrics and traces. Seconds; `queue_s` has one entry a piece, `marks` one a request."""

    num_tokens: int
    num_pieces: int
    queue_s: tuple[float, ...]
    model_s: float
    marks: tuple[Any, ...]


@dataclass(eq=False)
class _Request:
    future: asyncio.Future[list[Any]]
    results: list[Any]
    num_open: int
    deadline: float
    arrived: float
    queued_tokens: int
    mark: Any
    in_queue: bool = True
    dropped: bool = False


@dataclass(order=True)
class _Piece:
    round: int
    arrival: int
    index: int
    item: Any = field(compare=False)
    num_tokens: int = field(compare=False)
    request: _Request = field(compare=False)


class TokenBudgetBatcher:
    """Batches pieces of many requests for one model.

    `run(items)` returns one result for each item, in order; the model's thread is its business. When a batch of
    several requests fails, each request is computed again alone, so only the one at fault sees the exception.
    """

    def __init__(
        self,
        run: Callable[[list[Any]], Awaitable[Sequence[Any]]],
        limits: QueueLimits,
        *,
        on_batch: Callable[[BatchReport], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._limits = limits
        self._on_batch = on_batch
        self._clock = clock
        self._heap: list[_Piece] = []
        self._arrivals = itertools.count()
        self._round = 0
        self._batch_time = BatchTime()
        self._worker: asyncio.Task[None] | None = None
        # When the batch that is being computed should end; None while none is.
        self._ends_at: float | None = None
        self.queued_tokens = 0
        self.queued_requests = 0

    async def submit(
        self,
        items: Sequence[Any],
        num_tokens: Sequence[int],
        *,
        timeout_s: float = float("inf"),
        mark: Any = None,
    ) -> list[Any]:
        """Results of `items`, in order, within `timeout_s` seconds from now.

        `num_tokens[i]` is the size of `items[i]`; the report of each of its batches has `mark`. Raises ServingError:
        `overloaded` when the queue is full or too slow, `deadline_exceeded` when the time is over. Cancelling the call
        drops what is not computed yet.
        """
        if not items:
            return []
        request = self._admit(sum(num_tokens), len(items), timeout_s, mark)
        arrival = next(self._arrivals)
        tokens_before = 0
        for index, (item, size) in enumerate(zip(items, num_tokens, strict=True)):
            # How many budgets lie before the end of this piece: a request that fits one batch lies in one round.
            # One more for what lies later: who arrives while the first batch is computed goes before the second.
            ahead = max(0, tokens_before + size - 1) // self._limits.max_tokens_per_batch if index else 0
            round_ = self._round + (ahead + 1 if ahead else 0)
            heapq.heappush(self._heap, _Piece(round_, arrival, index, item, size, request))
            tokens_before += size
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        try:
            async with asyncio.timeout(None if timeout_s == float("inf") else timeout_s):
                return await request.future
        except TimeoutError:
            raise ServingError("deadline_exceeded", f"not answered within {timeout_s:.3g} s") from None
        finally:
            self._drop(request)

    def estimated_wait_s(self) -> float:
        """Seconds until the model would start on a request that came now; 0 on an idle server."""
        left_s = max(0.0, self._ends_at - self._clock()) if self._ends_at is not None else 0.0
        return left_s + self._seconds(self.queued_tokens)

    def _seconds(self, tokens: int) -> float:
        return self._batch_time.seconds(tokens, self._limits.max_tokens_per_batch)

    async def close(self) -> None:
        """Stops the worker; calls still waiting are cancelled."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        for piece in self._heap:
            piece.request.future.cancel()
        self._heap.clear()

    def check(self, timeout_s: float = float("inf")) -> None:
        """Raises what `submit` would raise now for the smallest request: to refuse before any work is done on it.

        A refusal that every other request would meet as well says so (`busy_s`).
        """
        self._refuse(self._reason(0, float("inf")), for_all=True)
        self._refuse(self._reason(0, timeout_s))

    def _reason(self, tokens: int, timeout_s: float) -> str | None:
        return self._limits.refusal(
            self.queued_requests, self.queued_tokens, tokens, self.estimated_wait_s(), timeout_s
        )

    def _refuse(self, reason: str | None, *, for_all: bool = False) -> None:
        if reason is not None:
            raise overloaded(reason, self.estimated_wait_s(), for_all=for_all)

    def _admit(self, tokens: int, pieces: int, timeout_s: float, mark: Any) -> _Request:
        self._refuse(self._reason(tokens, timeout_s))
        now = self._clock()
        self.queued_requests += 1
        self.queued_tokens += tokens
        return _Request(
            future=asyncio.get_running_loop().create_future(),
            results=[None] * pieces,
            num_open=pieces,
            deadline=now + timeout_s,
            arrived=now,
            queued_tokens=tokens,
            mark=mark,
        )

    def _drop(self, request: _Request) -> None:
        """Takes what is left of a request out of the counts; its pieces leave the heap when they come up."""
        request.dropped = True
        self.queued_tokens -= request.queued_tokens
        request.queued_tokens = 0
        if request.in_queue:
            request.in_queue = False
            self.queued_requests -= 1
        if self.queued_requests == 0:
            self._heap.clear()

    async def _work(self) -> None:
        while True:
            # One turn of the loop, so that requests that arrived together are seen together.
            await asyncio.sleep(0)
            batch = self._next_batch()
            if not batch:
                # The next request begins another task: one that waited would keep a replaced model in memory.
                return
            await self._compute(batch)

    def _next_batch(self) -> list[_Piece]:
        batch: list[_Piece] = []
        total = 0
        now = self._clock()
        while self._heap:
            piece = self._heap[0]
            request = piece.request
            if request.dropped:
                heapq.heappop(self._heap)
                continue
            # A request that is alone delays no other one, and the estimate may be wrong.
            needed_s = self._seconds(request.queued_tokens) if self.queued_requests > 1 else 0.0
            if now + needed_s > request.deadline:
                heapq.heappop(self._heap)
                self._expire(request)
                continue
            if batch and total + piece.num_tokens > self._limits.max_tokens_per_batch:
                break
            heapq.heappop(self._heap)
            batch.append(piece)
            total += piece.num_tokens
            request.queued_tokens -= piece.num_tokens
            self.queued_tokens -= piece.num_tokens
        if batch:
            self._round = max(self._round, batch[0].round) + 1
        return batch

    def _expire(self, request: _Request) -> None:
        if not request.future.done():
            request.future.set_exception(
                ServingError("deadline_exceeded", "cannot be answered within the time left; not computed")
            )
        self._drop(request)

    async def _compute(self, batch: list[_Piece]) -> None:
        started = self._clock()
        total = sum(piece.num_tokens for piece in batch)
        self._ends_at = started + self._seconds(total)
        for piece in batch:
            # Once its last piece is with the model, a request no longer waits.
            if piece.request.queued_tokens == 0 and piece.request.in_queue:
                piece.request.in_queue = False
                self.queued_requests -= 1
        try:
            await self._run_batch(batch)
        except asyncio.CancelledError:
            for piece in batch:
                piece.request.future.cancel()
            raise
        finally:
            self._ends_at = None
        model_s = self._clock() - started
        self._batch_time.add(total, model_s)
        if self._on_batch is not None:
            waits = tuple(started - piece.request.arrived for piece in batch)
            marks = tuple({id(piece.request): piece.request.mark for piece in batch}.values())
            self._on_batch(
                BatchReport(num_tokens=total, num_pieces=len(batch), queue_s=waits, model_s=model_s, marks=marks)
            )

    async def _run_batch(self, batch: list[_Piece]) -> None:
        try:
            results = await self._run([piece.item for piece in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"the model gave {len(results)} results for {len(batch)} items")
        except Exception as error:
            requests = {id(piece.request): piece.request for piece in batch}
            if len(requests) == 1:
                self._fail(batch[0].request, error)
                return
            for request in requests.values():
                if not request.dropped:
                    await self._run_batch([piece for piece in batch if piece.request is request])
            return
        for piece, result in zip(batch, results, strict=True):
            self._deliver(piece, result)

    def _fail(self, request: _Request, error: Exception) -> None:
        if not request.future.done():
            request.future.set_exception(error)
        self._drop(request)

    @staticmethod
    def _deliver(piece: _Piece, result: Any) -> None:
        request = piece.request
        request.results[piece.index] = result
        request.num_open -= 1
        if request.num_open == 0 and not request.future.done():
            request.future.set_result(request.results)
