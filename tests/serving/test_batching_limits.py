"""serving.replicas.batching without Ray: deadlines, full queues, and refusals at the door."""

import asyncio

import pytest
from batcher_calls import FakeModel, limits, run, settle, while_one_batch_of

from serving.errors import ServingError
from serving.replicas.batch_time import BatchTime
from serving.replicas.batching import TokenBudgetBatcher


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
