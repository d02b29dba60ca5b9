"""serving.replicas.batching without Ray: order, fairness, and what is never computed."""

import asyncio
import itertools

from batcher_calls import FakeModel, limits, run, settle
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.replicas.batching import BatchReport, TokenBudgetBatcher


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
