"""serving.replicas.batching without Ray: order, bounds, fairness, and what is never computed."""

import asyncio
import itertools
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.errors import ServingError
from serving.replicas.batch_time import BatchTime
from serving.replicas.batching import BatchReport, TokenBudgetBatcher
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


def test_results_come_back_in_order_of_the_request():
    async def main():
        batcher = TokenBudgetBatcher(FakeModel(), limits())
        assert await batcher.submit(["a", "b", "c"], [4, 4, 4]) == ["A", "B", "C"]
        assert (batcher.queued_requests, batcher.queued_tokens) == (0, 0)
        await batcher.close()

    run(main())


def test_requests_are_served_first_come_first_served_within_the_budget():
    async def main():
        model = FakeModel(gated=True)
        batcher = TokenBudgetBatcher(model, limits())
        calls = [asyncio.create_task(batcher.submit(["first"], [1]))]
        await model.started.acquire()
        for name, size in [("a", 6), ("b", 3), ("c", 5), ("d", 1), ("e", 9)]:
            calls.append(asyncio.create_task(batcher.submit([name], [size])))
            await asyncio.sleep(0)
        model.release(10)
        await asyncio.gather(*calls)
        # c does not fit behind a and b, and d, which would, does not overtake it.
        assert model.batches == [["first"], ["a", "b"], ["c", "d"], ["e"]]
        await batcher.close()

    run(main())


def test_a_piece_above_the_budget_is_computed_alone():
    async def main():
        model = FakeModel(gated=True)
        batcher = TokenBudgetBatcher(model, limits())
        calls = [asyncio.create_task(batcher.submit(["first"], [1]))]
        await model.started.acquire()
        calls += [asyncio.create_task(batcher.submit([name], [size])) for name, size in [("s", 1), ("L", 50), ("t", 1)]]
        await settle()
        model.release(10)
        assert await asyncio.gather(*calls) == [["FIRST"], ["S"], ["L"], ["T"]]
        assert model.batches == [["first"], ["s"], ["L"], ["t"]]
        await batcher.close()

    run(main())


def test_a_short_request_waits_for_one_batch_of_a_request_of_many():
    async def main():
        model = FakeModel(gated=True)
        batcher = TokenBudgetBatcher(model, limits())
        windows = [f"w{n}" for n in range(20)]
        long = asyncio.create_task(batcher.submit(windows, [10] * 20))
        await model.started.acquire()
        short = asyncio.create_task(batcher.submit(["short"], [2]))
        await settle()
        model.release(2)
        assert await short == ["SHORT"]
        assert model.batches[:2] == [["w0"], ["short"]]
        model.release(30)
        assert await long == [window.upper() for window in windows]
        await batcher.close()

    run(main())


def test_a_long_request_is_not_starved_by_a_stream_of_short_ones():
    async def main():
        model = FakeModel(gated=True)
        batcher = TokenBudgetBatcher(model, limits())
        calls = [asyncio.create_task(batcher.submit(["long0", "long1", "long2"], [10, 10, 10]))]
        for number in itertools.count():
            calls.append(asyncio.create_task(batcher.submit([f"s{number}"], [10])))
            await settle()
            model.release()
            await settle()
            if calls[0].done():
                break
        assert number <= 6
        model.release(100)
        await asyncio.gather(*calls)
        await batcher.close()

    run(main())


def test_work_of_a_caller_that_left_is_never_computed():
    async def main():
        model = FakeModel(gated=True)
        batcher = TokenBudgetBatcher(model, limits())
        first = asyncio.create_task(batcher.submit(["first"], [1]))
        await model.started.acquire()
        gone = asyncio.create_task(batcher.submit(["gone"], [7]))
        stays = asyncio.create_task(batcher.submit(["stays"], [1]))
        await settle()
        assert batcher.queued_tokens == 8
        gone.cancel()
        await settle()
        assert batcher.queued_tokens == 1
        assert batcher.queued_requests == 1
        model.release(5)
        await asyncio.gather(first, stays)
        assert model.batches == [["first"], ["stays"]]
        await batcher.close()

    run(main())


def test_work_past_its_deadline_is_answered_in_time_and_never_computed():
    async def main():
        model = FakeModel(gated=True)
        batcher = TokenBudgetBatcher(model, limits())
        first = asyncio.create_task(batcher.submit(["first"], [1]))
        await model.started.acquire()
        with pytest.raises(ServingError) as caught:
            await batcher.submit(["late"], [1], timeout_s=0.02)
        assert caught.value.kind == "deadline_exceeded"
        assert (batcher.queued_requests, batcher.queued_tokens) == (0, 0)
        model.release(5)
        await first
        await settle()
        assert model.batches == [["first"]]
        await batcher.close()

    run(main())


def test_while_others_wait_a_request_that_cannot_meet_its_deadline_is_not_computed():
    async def main():
        async with while_one_batch_of(10.0, max_queue_wait_s=1000) as batcher:
            hopeless = asyncio.create_task(batcher.submit(["ten seconds"], [10], timeout_s=15))
            other = asyncio.create_task(batcher.submit(["other"], [10], timeout_s=100))
            await settle()
        with pytest.raises(ServingError) as caught:
            await hopeless
        assert caught.value.kind == "deadline_exceeded"
        await other

    run(main())


def test_an_idle_server_computes_a_long_request_whatever_tiny_ones_took():
    """A rate in seconds a token, learned from tiny batches, said 1,800 s for these tokens."""

    async def main():
        now = 0.0

        async def model(items):
            nonlocal now
            now += 0.5 if "long" not in items else 10.0
            return items

        batcher = TokenBudgetBatcher(model, limits(max_tokens_per_batch=8192), clock=lambda: now)
        for number in range(150):
            await batcher.submit(["tiny"], [8 + number % 5], timeout_s=60)
        assert await batcher.submit(["long"] * 5, [7200] * 5, timeout_s=60) == ["long"] * 5
        await batcher.close()

    run(main())


@pytest.mark.parametrize("estimate_s", [1.0, 1000.0])
def test_a_request_that_is_alone_is_computed_whatever_the_estimate_says(estimate_s):
    async def main():
        now = 0.0
        cost_s = estimate_s

        async def model(items):
            nonlocal now
            now += cost_s
            return items

        batcher = TokenBudgetBatcher(model, limits(), clock=lambda: now)
        await batcher.submit(["slow start"], [10])
        cost_s = 0.1
        assert await batcher.submit(["x"], [10], timeout_s=5) == ["x"]
        await batcher.close()

    run(main())


def test_the_time_of_a_batch_is_a_fixed_part_and_a_part_for_each_token():
    batch_time = BatchTime()
    assert batch_time.seconds(5000, 8192) == 0.0
    for size in (100, 8000, 2000, 500, 4000, 6000) * 5:
        batch_time.add(size, 0.2 + 0.001 * size)
    assert batch_time.seconds(3000, 8192) == pytest.approx(3.2, rel=0.05)
    assert batch_time.seconds(81920, 8192) == pytest.approx(10 * 0.2 + 81.92, rel=0.05)


@pytest.mark.parametrize(
    ("changes", "waiting"),
    [({"max_queued_requests": 2}, [1, 1]), ({"max_queued_tokens": 20}, [9, 9])],
)
def test_a_full_queue_refuses_with_the_time_to_come_back(changes, waiting):
    async def main():
        model = FakeModel(gated=True)
        batcher = TokenBudgetBatcher(model, limits(**changes))
        calls = [asyncio.create_task(batcher.submit(["first"], [1]))]
        await model.started.acquire()
        calls += [asyncio.create_task(batcher.submit(["x"], [size])) for size in waiting]
        await settle()
        with pytest.raises(ServingError) as caught:
            await batcher.submit(["too much"], [5])
        assert caught.value.status == 429
        if "max_queued_requests" in changes:
            with pytest.raises(ServingError):
                batcher.check()
        assert caught.value.retry_after_s >= 1
        model.release(10)
        await asyncio.gather(*calls)
        assert await asyncio.create_task(batcher.submit(["again"], [5])) == ["AGAIN"]
        await batcher.close()

    run(main())


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


def test_a_wait_beyond_the_limit_is_refused_at_the_door():
    async def main():
        async with while_one_batch_of(10.0, max_queue_wait_s=5) as batcher:
            with pytest.raises(ServingError) as caught:
                await batcher.submit(["x"], [1])
            assert caught.value.kind == "overloaded"

    run(main())


@pytest.mark.parametrize(
    ("timeout_s", "wait_limit_s", "busy_s"),
    [(60.0, 2.0, 0.5), (3.0, 60.0, 0.0)],
    ids=["the queue is too long for anybody", "for this request only"],
)
def test_a_refusal_says_whether_it_holds_for_every_other_request(timeout_s, wait_limit_s, busy_s):
    async def main():
        async with while_one_batch_of(4.0, max_queue_wait_s=wait_limit_s) as batcher:
            with pytest.raises(ServingError) as caught:
                batcher.check(timeout_s)
            assert caught.value.busy_s == pytest.approx(busy_s)

    run(main())


def test_one_failing_request_does_not_fail_its_neighbours():
    async def main():
        model = FakeModel(gated=True)
        batcher = TokenBudgetBatcher(model, limits())
        first = asyncio.create_task(batcher.submit(["first"], [1]))
        await model.started.acquire()
        good = asyncio.create_task(batcher.submit(["good"], [1]))
        bad = asyncio.create_task(batcher.submit(["bad"], [1]))
        fine = asyncio.create_task(batcher.submit(["fine"], [1]))
        await settle()
        model.release(10)
        results = await asyncio.gather(first, good, bad, fine, return_exceptions=True)
        assert results[0] == ["FIRST"]
        assert results[1] == ["GOOD"]
        assert isinstance(results[2], RuntimeError)
        assert results[3] == ["FINE"]
        await batcher.close()

    run(main())


def test_every_batch_is_reported_with_its_tokens_and_waits():
    async def main():
        reports: list[BatchReport] = []
        batcher = TokenBudgetBatcher(FakeModel(), limits(), on_batch=reports.append)
        await batcher.submit(["a", "b", "c"], [5, 5, 5])
        await settle()
        seen = [(report.num_tokens, report.num_pieces, len(report.queue_s)) for report in reports]
        assert seen == [(10, 2, 2), (5, 1, 1)]
        await batcher.close()

    run(main())


def test_closing_cancels_what_still_waits():
    async def main():
        model = FakeModel(gated=True)
        batcher = TokenBudgetBatcher(model, limits())
        calls = [asyncio.create_task(batcher.submit([name], [9])) for name in ("a", "b")]
        await model.started.acquire()
        await batcher.close()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)

    run(main())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 25), min_size=1, max_size=6), min_size=1, max_size=12),
    st.lists(st.integers(0, 11), max_size=4),
)
def test_nothing_is_lost_doubled_or_over_budget(requests, leavers):
    async def main():
        model = FakeModel()
        batcher = TokenBudgetBatcher(model, limits(max_queued_tokens=10**6))
        sizes: dict[str, int] = {}
        calls = []
        for number, pieces in enumerate(requests):
            names = [f"r{number}p{index}" for index in range(len(pieces))]
            sizes.update(zip(names, pieces, strict=True))
            calls.append(asyncio.create_task(batcher.submit(names, pieces)))
        await asyncio.sleep(0)
        left = {number for number in leavers if number < len(calls)}
        for number in left:
            calls[number].cancel()
        results = await asyncio.gather(*calls, return_exceptions=True)
        for number, result in enumerate(results):
            if number not in left:
                assert result == [f"R{number}P{index}" for index in range(len(requests[number]))]
        computed = [name for batch in model.batches for name in batch]
        assert len(computed) == len(set(computed))
        for batch in model.batches:
            assert len(batch) == 1 or sum(sizes[name] for name in batch) <= 10
        assert (batcher.queued_requests, batcher.queued_tokens) == (0, 0)
        await batcher.close()

    run(main())
