"""Attention against the cache equals causal attention over the whole sequence, however the tokens arrive."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bigbird.attention.cached import CachedAttention
from bigbird.attention.kv_cache import KVCache

LAYERS, HEADS, DIM = 2, 2, 8


def make_cache(page_size: int = 4, max_tokens: int = 4096) -> KVCache:
    return KVCache(num_layers=LAYERS, num_heads=HEADS, head_dim=DIM, max_tokens=max_tokens, page_size=page_size)


def causal(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """The whole sequence at once, written out: (n, H, D) -> (n, H, D)."""
    scores = torch.einsum("qhd,khd->hqk", query, key) / DIM**0.5
    scores = scores.masked_fill(torch.ones(scores.shape[1:]).triu(1).bool(), -torch.inf)
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), value)


class Sequence:
    """Random states of a whole sequence in every layer, and how much of it has been fed."""

    def __init__(self, number: int, length: int, seed: int) -> None:
        states = torch.randn(LAYERS, 3, length, HEADS, DIM, generator=torch.Generator().manual_seed(seed))
        self.number = number
        self.states = states
        self.expected = [causal(*states[layer]) for layer in range(LAYERS)]
        self.fed = 0


@torch.inference_mode()
def feed(cache: KVCache, parts: list[tuple[Sequence, int]]) -> None:
    """One pass over some new tokens of some sequences, checked against the whole."""
    attend = CachedAttention(cache, [(sequence.number, count) for sequence, count in parts])
    positions = torch.cat([torch.arange(sequence.fed, sequence.fed + count) for sequence, count in parts])
    assert torch.equal(attend.position_ids, positions)
    for layer in range(LAYERS):
        packed = torch.cat([sequence.states[layer, :, sequence.fed :][:, :count] for sequence, count in parts], dim=1)
        context = attend(layer, *packed)
        expected = torch.cat([sequence.expected[layer][sequence.fed :][:count] for sequence, count in parts])
        torch.testing.assert_close(context, expected, atol=1e-5, rtol=1e-5)
    for sequence, count in parts:
        sequence.fed += count


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    page_size=st.sampled_from([1, 3, 4, 16]),
    data=st.data(),
)
def test_any_mixture_of_chunks_and_single_tokens_equals_the_whole(lengths, page_size, data):
    cache = make_cache(page_size)
    sequences = [Sequence(cache.open(length), length, seed) for seed, length in enumerate(lengths)]
    while pending := [sequence for sequence in sequences if sequence.fed < sequence.states.shape[2]]:
        chosen = data.draw(st.lists(st.sampled_from(pending), min_size=1, unique_by=id))
        feed(
            cache,
            [
                (sequence, data.draw(st.sampled_from([1, 1, 2, 5, 15, 40]).map(lambda n, s=sequence: min(n, left(s)))))
                for sequence in chosen
            ],
        )


def left(sequence: Sequence) -> int:
    return sequence.states.shape[2] - sequence.fed


def test_far_apart_pages_are_gathered_with_the_same_result():
    cache = make_cache(page_size=2)
    other = cache.open(60)
    sequence = Sequence(cache.open(20), 20, seed=1)
    feed(cache, [(sequence, 3)])
    cache.extend(other, 60)
    feed(cache, [(sequence, 3)])
    attend = CachedAttention(cache, [(sequence.number, 1)])
    assert attend._few is not None
    assert attend._few.gathers
    for layer in range(LAYERS):
        context = attend(layer, *sequence.states[layer, :, 6:7])
        torch.testing.assert_close(context, sequence.expected[layer][6:7], atol=1e-5, rtol=1e-5)


def test_forks_and_shared_prefixes_attend_to_the_pages_they_share():
    cache = make_cache(page_size=4)
    parent = Sequence(cache.open(30, num_forks=1), 30, seed=2)
    feed(cache, [(parent, 10)])
    children = []
    follower = cache.open(30)
    cache.adopt(follower, parent.number, 8)
    for child in (cache.fork(parent.number), follower):
        sequence = Sequence(child, 30, seed=3 + child)
        sequence.fed = cache.length(child)
        sequence.states[:, :, : sequence.fed] = parent.states[:, :, : sequence.fed]
        sequence.expected = [causal(*sequence.states[layer]) for layer in range(LAYERS)]
        children.append(sequence)
    for _ in range(6):
        feed(cache, [(sequence, 1) for sequence in (*children, parent)])


def test_a_neighbour_changes_nothing():
    alone, beside = make_cache(), make_cache()
    results = []
    for cache in (alone, beside):
        sequence = Sequence(cache.open(40), 40, seed=4)
        neighbours = [Sequence(cache.open(40), 40, seed=5 + n) for n in range(3)] if cache is beside else []
        feed(cache, [(sequence, 9), *((neighbour, 1 + 7 * n) for n, neighbour in enumerate(neighbours))])
        order = [*neighbours[:1], sequence, *neighbours[1:]]
        attend = CachedAttention(cache, [(other.number, 1) for other in order])
        packed = torch.cat([other.states[0, :, other.fed :][:, :1] for other in order], dim=1)
        results.append(attend(0, *packed)[order.index(sequence)])
    torch.testing.assert_close(*results, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("gathers", [False, True])
def test_bfloat16_pages_equal_float32_to_its_precision(gathers: bool):
    exact = make_cache()
    rounded = KVCache(num_layers=1, num_heads=HEADS, head_dim=DIM, max_tokens=256, page_size=4, dtype=torch.bfloat16)
    results = []
    for cache in (exact, rounded):
        dtype = cache.keys[0].dtype
        spread = [cache.open(20) for _ in range(5)]
        for other in spread if gathers else []:
            cache.extend(other, 20)
        sequence = Sequence(cache.open(40), 40, seed=8)
        states = sequence.states[0].to(dtype)
        CachedAttention(cache, [(sequence.number, 30)])(0, *states[:, :30])
        results.append(CachedAttention(cache, [(sequence.number, 1)])(0, *states[:, 30:31]).float())
    torch.testing.assert_close(results[1], results[0], atol=0.02, rtol=0.02)
    torch.testing.assert_close(results[0], sequence.expected[0][30:31], atol=1e-5, rtol=1e-5)


def test_a_broken_text_does_not_reach_the_next_owner_of_its_pages():
    cache = make_cache(page_size=16)
    broken = cache.open(20)
    nothing = torch.full((20, HEADS, DIM), torch.nan)
    CachedAttention(cache, [(broken, 20)])(0, nothing, nothing, nothing)
    pages = cache.pages(broken)
    cache.free(broken)
    sequence = Sequence(cache.open(20), 20, seed=9)
    feed(cache, [(sequence, 3)])
    feed(cache, [(sequence, 1)])
    assert set(cache.pages(sequence.number)) <= set(pages)


def test_large_scores_do_not_overflow():
    cache = make_cache()
    sequence = Sequence(cache.open(12), 12, seed=6)
    sequence.states[:, :2] *= 60
    sequence.expected = [causal(*sequence.states[layer]) for layer in range(LAYERS)]
    for count in (5, 1, 1, 1, 4):
        feed(cache, [(sequence, count)])
