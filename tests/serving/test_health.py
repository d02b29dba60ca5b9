"""serving.replicas.health and the threads for texts, without models."""

import asyncio
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.replicas.health import ModelHealth
from serving.replicas.text_threads import TextThreads, pieces


def fail(health: ModelHealth, error: Exception) -> None:
    with pytest.raises(type(error)), health.watched():
        raise error


def test_a_model_is_unhealthy_after_five_failures_in_a_row_and_one_success_forgives_four():
    health = ModelHealth(60.0)
    for _ in range(4):
        fail(health, ValueError("bad"))
    with health.watched():
        health.check()
    for _ in range(4):
        fail(health, ValueError("bad"))
        health.check()
    fail(health, ValueError("bad"))
    with pytest.raises(RuntimeError, match="last 5 forwards failed"):
        health.check()


def test_one_cuda_error_is_enough_and_no_success_forgives_it():
    health = ModelHealth(60.0)
    fail(health, RuntimeError("CUDA error: an illegal memory access was encountered"))
    with health.watched():
        pass
    with pytest.raises(RuntimeError, match="device is lost"):
        health.check()


def test_a_forward_that_hangs_is_unhealthy_until_it_ends():
    now = 0.0
    health = ModelHealth(60.0, clock=lambda: now)
    with health.watched():
        now = 59.0
        health.check()
        now = 61.0
        with pytest.raises(RuntimeError, match="running for 61 s, the limit is 60 s"):
            health.check()
    health.check()


@given(st.lists(st.integers(0, 100_000), max_size=12))
def test_pieces_are_all_inputs_in_order_and_small_unless_one_input_is_large(sizes):
    inputs = ["x" * size for size in sizes]
    cut = list(pieces(inputs))
    assert [item for piece in cut for item in piece] == inputs
    assert all(len(piece) == 1 or sum(map(len, piece)) <= 64 * 1024 for piece in cut)


def test_a_short_text_does_not_wait_for_a_long_one_and_a_cancelled_one_is_never_begun():
    async def main():
        threads, gate, ran = TextThreads(), threading.Event(), []
        long = asyncio.create_task(threads.run(["x" * 100_000], gate.wait))
        left = asyncio.create_task(threads.run(["y" * 100_000], ran.append, "left"))
        await asyncio.sleep(0)
        assert await threads.run(["short"], lambda: "done") == "done"
        left.cancel()
        await asyncio.sleep(0)
        gate.set()
        await long
        await threads.run(["z" * 100_000], ran.append, "next")
        assert ran == ["next"]

    asyncio.run(asyncio.wait_for(main(), 20))


@pytest.mark.parametrize("changes", [{"candidate_labels": ("a",)}, {"top_k": 1000}])
def test_a_tiny_text_is_read_at_once_unless_options_may_make_it_much_work(changes):
    async def main():
        threads, gate = TextThreads(), threading.Event()
        assert await threads.run(["tiny"], threading.get_ident, changes={}) == threading.get_ident()
        assert await threads.run(["tiny"], threading.get_ident, changes=changes) != threading.get_ident()
        long = asyncio.create_task(threads.run(["tiny"], gate.wait, changes={"candidate_labels": ("x" * 100_000,)}))
        assert await threads.run(["tiny"], lambda: "done", changes=changes) == "done"
        gate.set()
        await long

    asyncio.run(asyncio.wait_for(main(), 20))
