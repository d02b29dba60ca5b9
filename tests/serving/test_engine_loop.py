"""serving.replicas.engine_loop with a fake engine: streaming, cancelling, bounds, and an engine that breaks."""

import asyncio
import threading
from collections import deque
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from serving.errors import ServingError
from serving.replicas.engine_loop import EngineLoop


@dataclass
class Event:
    request_id: int
    token_id: int | None
    text: str = ""
    finish_reason: str | None = None


class FakeEngine:
    """Counts up: a request asks for so many tokens; `slots` requests run at a time."""

    def __init__(self, slots: int = 2) -> None:
        self.slots = slots
        self.waiting: deque[int] = deque()
        self.running: dict[int, int] = {}
        self.wanted: dict[int, int] = {}
        self.cancelled: set[int] = set()
        self.num_steps = 0
        self.fails_at: int | None = None
        self.stepping = threading.Lock()
        self.gate = threading.Event()
        self.gate.set()

    def submit(self, prompt_ids: Any, options: int) -> int:
        assert not self.stepping.locked(), "touched during a step"
        if options <= 0:
            raise ValueError("nothing to do")
        request_id = len(self.wanted)
        self.wanted[request_id] = options
        self.waiting.append(request_id)
        return request_id

    def cancel(self, request_id: int) -> None:
        assert not self.stepping.locked(), "touched during a step"
        self.cancelled.add(request_id)

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    @property
    def stats(self) -> Any:
        return SimpleNamespace(num_waiting=len(self.waiting), num_running=len(self.running))

    def step(self) -> list[Event]:
        with self.stepping:
            assert self.gate.wait(10)
            self.num_steps += 1
            if self.fails_at == self.num_steps:
                raise RuntimeError("out of memory")
            events = []
            for request_id in [r for r in (*self.running, *self.waiting) if r in self.cancelled]:
                self.running.pop(request_id, None)
                if request_id in self.waiting:
                    self.waiting.remove(request_id)
                self.cancelled.discard(request_id)
                events.append(Event(request_id, None, finish_reason="cancelled"))
            while self.waiting and len(self.running) < self.slots:
                self.running[self.waiting.popleft()] = 0
            for request_id in list(self.running):
                self.running[request_id] += 1
                done = self.running[request_id] == self.wanted[request_id]
                events.append(Event(request_id, self.running[request_id], "x", "length" if done else None))
                if done:
                    del self.running[request_id]
            return events


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 20))


async def tokens(loop: EngineLoop, wanted: int) -> list[int]:
    return [event.token_id async for event in loop.generate([1], wanted)]


def test_requests_share_steps_and_each_gets_its_own_tokens():
    async def main():
        engine = FakeEngine(slots=4)
        loop = EngineLoop(engine, max_waiting=10)
        results = await asyncio.gather(*(tokens(loop, wanted) for wanted in (3, 1, 5)))
        assert results == [[1, 2, 3], [1], [1, 2, 3, 4, 5]]
        assert engine.num_steps == 5
        assert loop.num_open == 0
        await loop.close()

    run(main())


def test_the_worker_sleeps_without_work_and_wakes_for_it():
    async def main():
        engine = FakeEngine()
        loop = EngineLoop(engine, max_waiting=10)
        assert await tokens(loop, 2) == [1, 2]
        steps = engine.num_steps
        await asyncio.sleep(0.05)
        assert engine.num_steps == steps
        assert await tokens(loop, 1) == [1]
        await loop.close()

    run(main())


def test_leaving_early_frees_the_slot_at_the_next_step():
    async def main():
        engine = FakeEngine(slots=1)
        loop = EngineLoop(engine, max_waiting=10)
        stream = loop.generate([1], 10**6)
        assert (await anext(stream)).token_id == 1
        next_one = asyncio.create_task(tokens(loop, 2))
        await asyncio.sleep(0.01)
        assert not next_one.done()
        await stream.aclose()
        assert await next_one == [1, 2]
        assert not engine.running
        assert loop.num_open == 0
        await loop.close()

    run(main())


@pytest.mark.parametrize("moment", ["before it is submitted", "while it waits", "while it runs"])
def test_a_cancelled_reader_leaves_nothing_behind(moment):
    async def main():
        engine = FakeEngine(slots=1)
        loop = EngineLoop(engine, max_waiting=10)
        if moment == "while it waits":
            other = asyncio.create_task(tokens(loop, 10**6))
            await asyncio.sleep(0.02)
        reader = asyncio.create_task(tokens(loop, 10**6))
        await asyncio.sleep(0 if moment == "before it is submitted" else 0.02)
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
        if moment == "while it waits":
            other.cancel()
            await asyncio.gather(other, return_exceptions=True)
        assert await tokens(loop, 2) == [1, 2]
        assert (dict(engine.running), list(engine.waiting), loop.num_open) == ({}, [], 0)
        await loop.close()

    run(main())


def test_too_many_waiting_are_refused():
    async def main():
        engine = FakeEngine(slots=1)
        engine.gate.clear()
        loop = EngineLoop(engine, max_waiting=2)
        loop.check()
        calls = [asyncio.create_task(tokens(loop, 1)) for _ in range(2)]
        await asyncio.sleep(0.02)
        with pytest.raises(ServingError) as caught:
            loop.check()
        assert caught.value.kind == "overloaded"
        engine.gate.set()
        await asyncio.gather(*calls)
        loop.check()
        await loop.close()

    run(main())


def test_a_wait_that_would_be_too_long_is_refused_by_how_long_others_held_their_slots():
    async def main():
        engine = FakeEngine(slots=1)
        loop = EngineLoop(engine, max_waiting=100, max_wait_s=1e-6)
        await tokens(loop, 5)
        loop.check()
        running, waiting = (asyncio.create_task(tokens(loop, 10**6)) for _ in range(2))
        await asyncio.sleep(0.02)
        with pytest.raises(ServingError) as caught:
            loop.check()
        assert caught.value.kind == "overloaded"
        assert caught.value.retry_after_s >= 1
        for call in (running, waiting):
            call.cancel()
        await asyncio.gather(running, waiting, return_exceptions=True)
        await loop.close()

    run(main())


def test_what_submit_raises_reaches_its_own_caller_alone():
    async def main():
        loop = EngineLoop(FakeEngine(), max_waiting=10)
        bad, good = await asyncio.gather(tokens(loop, 0), tokens(loop, 2), return_exceptions=True)
        assert isinstance(bad, ValueError)
        assert good == [1, 2]
        await loop.close()

    run(main())


def test_an_engine_that_breaks_fails_its_requests_and_refuses_new_ones():
    async def main():
        engine = FakeEngine(slots=1)
        engine.fails_at = 2
        loop = EngineLoop(engine, max_waiting=10)
        results = await asyncio.gather(tokens(loop, 5), tokens(loop, 5), return_exceptions=True)
        assert [error.kind for error in results] == ["internal", "internal"]
        assert isinstance(loop.broken, RuntimeError)
        with pytest.raises(ServingError) as caught:
            await tokens(loop, 1)
        assert caught.value.kind == "head_unavailable"
        await loop.close()

    run(main())


def test_steps_are_reported():
    async def main():
        seen: list[int] = []
        loop = EngineLoop(FakeEngine(), max_waiting=10, on_step=seen.append)
        await asyncio.gather(tokens(loop, 2), tokens(loop, 1))
        assert seen == [2, 1]
        await loop.close()

    run(main())
