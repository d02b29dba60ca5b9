"""Which tiles of the packed axis a plan reads, for kernels that work tile by tile: on the host, from the plan's parts.

A tile is one block of queries by one block of keys. It is read whole, where every query reads every key in it, or in
part, where a mask has to say which. What no query reads is not listed. Time and memory grow with the tiles read, never
with the square of the axis.

Legend: T tokens of the axis, L its blocks of `size` tokens, the last one possibly short.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bigbird.attention.plan import AttentionPlan, Indices, Span
from bigbird.config import BigBirdConfig

Ints = npt.NDArray[np.int32]

SIZES = (128, 64, 32, 16)
"""Tokens of a block that kernels take."""

FEWEST_TOKENS = 256
"""Tokens of the shortest axis laid out here: below, kernels and their shapes are special cases, compiled anew."""


class Layout(NamedTuple):
    """Where rows lie on the packed axis: each row's first token, and the length of the axis."""

    starts: tuple[int, ...]
    num_tokens: int


class BlockLists(NamedTuple):
    """For each block of queries the blocks of keys in a list, ascending.

    counts: (L,), how many there are. flat, stride: line i begins at flat[i * stride]. `flat` is long enough to be read
    as L lines of L places, overlapping and mostly meaningless: the form that FlexAttention knows, without its square.
    """

    counts: Ints
    flat: Ints
    stride: int


def block_size(config: BigBirdConfig) -> int:
    """Tokens of a kernel's block: BigBird's own or a part of it where kernels take that, else any."""
    return next((size for size in SIZES if config.block_size % size == 0), 64)


def layout(config: BigBirdConfig, lengths: Sequence[int]) -> Layout:
    """Rows on an axis of whole blocks. A sparse row begins at a block of its own, so that the kernel's blocks are
    BigBird's and its tiles are read whole; other rows follow the one before at once, and cost no gap."""
    size = block_size(config)
    starts, end = [], 0
    for length in lengths:
        if config.is_sparse(length):
            end = -(-end // size) * size
        starts.append(end)
        end += length
    return Layout(tuple(starts), max(FEWEST_TOKENS, -(-end // size) * size))


def read_tiles(
    plan: AttentionPlan, num_tokens: int, size: int, *, masked: bool = False
) -> tuple[BlockLists, BlockLists]:
    """The tiles that a plan without seeded blocks reads in part, and those it reads whole.

    masked: some keys are masked, somewhere: nothing counts as whole.
    """
    queries, query_ends, keys, key_ends, causal = _rectangles(plan)
    # The tiles that each rectangle touches, one after another.
    first_query, first_key = queries // size, keys // size
    across = (key_ends - 1) // size - first_key + 1
    touched = ((query_ends - 1) // size - first_query + 1) * across
    of = np.repeat(np.arange(len(touched)), touched)
    within = np.arange(len(of)) - np.repeat(np.cumsum(touched) - touched, touched)
    query = first_query[of] + within // across[of]
    key = first_key[of] + within % across[of]
    # Pairs of a query and a key in each: every pair is in one rectangle at most, so a tile is whole where they add up.
    query_start, query_end = np.maximum(queries[of], query * size), np.minimum(query_ends[of], (query + 1) * size)
    key_start, key_end = np.maximum(keys[of], key * size), np.minimum(key_ends[of], (key + 1) * size)
    pairs = (query_end - query_start) * (key_end - key_start)
    diagonal = causal[of] & (key_end - 1 > query_start)
    pairs[diagonal] -= 1
    read = ~(causal[of] & (key_start > query_end - 1))
    num_blocks = -(-num_tokens // size)
    tiles, where = np.unique((query * num_blocks + key)[read], return_inverse=True)
    whole = np.bincount(where, weights=pairs[read]) == (np.inf if masked else size * size)
    return _lists(tiles[~whole], num_blocks, least=3), _lists(tiles[whole], num_blocks, least=2)


def _rectangles(plan: AttentionPlan) -> tuple[Indices, Indices, Indices, Indices, npt.NDArray[np.bool_]]:
    """Every run of queries with every run of keys it reads: first query, end, first key, end, whether causal."""
    assert not plan.seeded, "random blocks differ by head and layer"
    columns: list[tuple[Indices, Indices, Indices, Indices, npt.NDArray[np.bool_]]] = []
    for part in plan.parts:
        for query_span in part.queries:
            for key_span in part.keys:
                queries, keys = _starts(query_span), _starts(key_span)
                causal = np.full(len(queries), part.causal)
                columns.append((queries, queries + query_span.size, keys, keys + key_span.size, causal))
    queries, query_ends, keys, key_ends, causal = map(np.concatenate, zip(*columns, strict=True))
    return queries, query_ends, keys, key_ends, causal


def _starts(span: Span) -> Indices:
    return span.start + np.arange(span.runs) * span.step


def _lists(tiles: Indices, num_blocks: int, *, least: int) -> BlockLists:
    """tiles: query block * num_blocks + key block, ascending.

    Strides are least, least + 2, least + 4 and so on, and never num_blocks: of sizes that are equal by chance when a
    graph is made, the compiler expects that they always are.
    """
    lines, blocks = np.divmod(tiles, num_blocks)
    counts = np.bincount(lines, minlength=num_blocks)
    stride = least + max(0, -(-(int(counts.max()) - least) // 2) * 2)
    stride += 2 * (stride == num_blocks)
    flat = np.zeros(num_blocks * stride + num_blocks, dtype=np.int32)
    places = np.arange(len(tiles)) - (np.cumsum(counts) - counts)[lines]
    flat[lines * stride + places] = blocks
    return BlockLists(counts.astype(np.int32), flat, stride)
