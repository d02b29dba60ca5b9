"""The paged cache: what it gives back, what it promises, what it shares."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bigbird.attention.kv_cache import CacheFullError, KVCache

LAYERS, HEADS, DIM, PAGE = 2, 3, 4, 4


def make_cache(max_tokens: int = 64) -> KVCache:
    return KVCache(num_layers=LAYERS, num_heads=HEADS, head_dim=DIM, max_tokens=max_tokens, page_size=PAGE)


def append(cache: KVCache, sequence: int, values: list[float]) -> None:
    """Store tokens whose every number is the given value (negated in `values`), plus the layer's number."""
    pages, offsets = (torch.from_numpy(where) for where in cache.extend(sequence, len(values)))
    states = torch.tensor(values)[:, None, None].expand(len(values), HEADS, DIM)
    for layer in range(LAYERS):
        cache.write(layer, pages, offsets, states + layer, -states - layer)


def stored(cache: KVCache, sequence: int) -> list[float]:
    """What `append` stored, checked to be the same in every head, dimension and layer."""
    for layer in range(LAYERS):
        key, value = cache.read(layer, sequence)
        assert torch.equal(key, -value)
        assert torch.equal(key - layer, (key - layer)[:, :1, :, :1].expand_as(key))
    key, _ = cache.read(0, sequence)
    return [float(number) for number in key[0, 0, :, 0]]


def test_reads_back_what_was_written_across_pages_and_growth():
    cache = make_cache()
    first, second = cache.open(30), cache.open(30)
    for start in range(0, 30, 3):
        append(cache, first, [float(start + step) for step in range(3)])
        append(cache, second, [100.0 + start + step for step in range(3)])
    assert stored(cache, first) == [float(number) for number in range(30)]
    assert stored(cache, second) == [100.0 + number for number in range(30)]


def test_memory_grows_in_steps_and_never_beyond_the_limit():
    cache = make_cache(max_tokens=62)
    assert cache.num_pages == 16
    assert cache.num_allocated_pages == 0
    sequence = cache.open(62)
    append(cache, sequence, [0.0])
    assert cache.num_allocated_pages == 1
    append(cache, sequence, [0.0] * 61)
    assert cache.num_allocated_pages == cache.keys[0].shape[0] == 16


def test_a_reservation_is_kept_and_not_exceeded():
    cache = make_cache(max_tokens=16)
    promised = cache.open(12)
    assert cache.fits(4)
    assert not cache.fits(5)
    with pytest.raises(CacheFullError, match="5 tokens needs 2 pages"):
        cache.open(5)
    append(cache, promised, [0.0] * 12)
    with pytest.raises(CacheFullError, match="reserved 0 more"):
        cache.extend(promised, 1)


def test_freeing_gives_back_pages_and_reservation_at_once():
    cache = make_cache(max_tokens=16)
    sequence = cache.open(16)
    append(cache, sequence, [0.0] * 5)
    cache.free(sequence)
    assert cache.num_used_pages == 0
    assert cache.num_sequences == 0
    assert cache.num_available_pages == cache.num_pages


def test_shared_pages_outlive_the_sequence_they_came_from():
    cache = make_cache(max_tokens=32)
    first = cache.open(12)
    append(cache, first, [float(number) for number in range(10)])
    second = cache.open(12)
    cache.adopt(second, first, 8)
    assert cache.num_used_pages == 3  # two shared and the page that `first` has begun
    append(cache, second, [50.0])
    cache.free(first)
    other = cache.open(12)
    append(cache, other, [99.0] * 12)
    assert stored(cache, second) == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 50.0]


def test_sharing_refuses_parts_of_pages_and_tokens_not_written():
    cache = make_cache()
    first = cache.open(12)
    append(cache, first, [0.0] * 6)
    second = cache.open(12)
    for num_tokens in (3, 8):
        with pytest.raises(ValueError, match=f"got {num_tokens}"):
            cache.adopt(second, first, num_tokens)
    with pytest.raises(ValueError, match="must be empty"):
        cache.adopt(first, first, 4)


def test_a_fork_goes_its_own_way():
    cache = make_cache()
    first = cache.open(12, num_forks=1)
    append(cache, first, [float(number) for number in range(6)])
    second = cache.fork(first)
    append(cache, first, [10.0])
    append(cache, second, [20.0])
    assert stored(cache, first) == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 10.0]
    assert stored(cache, second) == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 20.0]
    assert cache.pages(first)[0] == cache.pages(second)[0]
    assert cache.pages(first)[1] != cache.pages(second)[1]


def test_truncated_tokens_are_written_anew_in_the_same_pages():
    cache = make_cache(max_tokens=12)
    sequence = cache.open(12)
    append(cache, sequence, [float(number) for number in range(10)])
    cache.truncate(sequence, 3)
    assert stored(cache, sequence) == [0.0, 1.0, 2.0]
    append(cache, sequence, [20.0 + number for number in range(9)])
    assert stored(cache, sequence) == [0.0, 1.0, 2.0, *(20.0 + number for number in range(9))]
    with pytest.raises(ValueError, match="from 0 to 12, got 13"):
        cache.truncate(sequence, 13)


@pytest.mark.parametrize("name", ["num_layers", "num_heads", "head_dim", "max_tokens", "page_size"])
def test_sizes_below_one_are_refused(name: str):
    sizes = {"num_layers": 1, "num_heads": 1, "head_dim": 1, "max_tokens": 1, "page_size": 1, name: 0}
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        KVCache(**sizes)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_order_of_operations_keeps_every_sequence_and_leaks_nothing(data: st.DataObject):
    cache = make_cache(max_tokens=80)
    expected: dict[int, list[float]] = {}
    limits: dict[int, int] = {}
    families: dict[int, tuple[int, int]] = {}  # whose fork a sequence is, and how many of them there may be
    fresh = iter(range(1, 100000))
    for _ in range(data.draw(st.integers(1, 40))):
        action = data.draw(st.sampled_from(["open", "extend", "extend", "truncate", "fork", "share", "free"]))
        known = sorted(expected)
        if action != "open" and not known:
            continue
        sequence = data.draw(st.sampled_from(known)) if known else -1
        if action == "open":
            limit = data.draw(st.integers(1, 24))
            num_forks = data.draw(st.integers(0, 2))
            if cache.fits(limit, num_forks):
                sequence = cache.open(limit, num_forks)
                expected[sequence], limits[sequence], families[sequence] = [], limit, (sequence, 1 + num_forks)
        elif action == "extend":
            room = limits[sequence] - len(expected[sequence])
            values = [float(next(fresh)) for _ in range(data.draw(st.integers(0, room)))]
            if values:
                append(cache, sequence, values)
                expected[sequence] += values
        elif action == "truncate":
            length = data.draw(st.integers(0, len(expected[sequence])))
            # Not into pages that others share: they stay as they are.
            length = max(length, len(expected[sequence]) // PAGE * PAGE)
            cache.truncate(sequence, length)
            del expected[sequence][length:]
        elif action == "fork":
            family, most = families[sequence]
            if sum(families[other][0] == family for other in expected) < most:
                child = cache.fork(sequence)
                expected[child], limits[child] = list(expected[sequence]), limits[sequence]
                families[child] = families[sequence]
        elif action == "share":
            shared = data.draw(st.integers(0, len(expected[sequence]) // PAGE)) * PAGE
            if cache.fits(shared + 4):
                child = cache.open(shared + 4)
                cache.adopt(child, sequence, shared)
                expected[child], limits[child], families[child] = expected[sequence][:shared], shared + 4, (child, 1)
        else:
            cache.free(sequence)
            del expected[sequence]
        assert cache.num_available_pages >= 0
        for known_sequence, values in expected.items():
            assert cache.length(known_sequence) == len(values)
            if values:
                assert stored(cache, known_sequence) == values
    for sequence in expected:
        cache.free(sequence)
    assert cache.num_available_pages == cache.num_pages
