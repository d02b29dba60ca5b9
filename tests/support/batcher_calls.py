"""What tests of the batcher share: a model that records its batches, limits, and a batcher that is busy."""

import asyncio
from contextlib import asynccontextmanager

from serving.replicas.batching import TokenBudgetBatcher
from serving.replicas.queue_limits import QueueLimits


class FakeModel:
    """Records its batches; holds each one until told to go on."""

    def __init__(self, *, gated: bool = False) -> None:
        self.batches: list[list[str]] = []
        self._gated = gated
        self._gate = asyncio.Semaphore(0)
        self.started = asyncio.Semaphore(0)
        self.entered = 0

    def release(self, batches: int = 1) -> None:
        for _ in range(batches):
            self._gate.release()

    async def __call__(self, items: list[str]) -> list[str]:
        self.entered += 1
        assert self.entered == 1, "two batches at once"
        self.batches.append(list(items))
        self.started.release()
        try:
            await (self._gate.acquire() if self._gated else asyncio.sleep(0))
        finally:
            self.entered -= 1
        if any("bad" in item for item in items):
            raise RuntimeError("bad item")
        return [item.upper() for item in items]


def limits(**changes: float) -> QueueLimits:
    return QueueLimits(**{"max_tokens_per_batch": 10, "max_queued_requests": 100, "max_queued_tokens": 1000} | changes)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 20))


@asynccontextmanager
async def while_one_batch_of(seconds, **bounds):
    """A batcher whose batches take so many seconds by its clock, while the second one is computed."""
    now = 0.0
    gate = asyncio.Event()

    async def slow(items):
        nonlocal now
        if "held" in items:
            await gate.wait()
        now += seconds
        return items

    batcher = TokenBudgetBatcher(slow, limits(**bounds), clock=lambda: now)
    await batcher.submit(["warm"], [10])
    held = asyncio.create_task(batcher.submit(["held"], [10]))
    await settle()
    yield batcher
    gate.set()
    await held
    await batcher.close()
