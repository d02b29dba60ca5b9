"""Which keys each query reads, per row of a packed batch: integers only, no tensors.

A row of `length` tokens is cut into blocks of `block_size`, the last one possibly short. Up to
`full_attention_limit` tokens a row is read in full. Beyond it (section 2 of the BigBird paper, with the counts
that transformers computes):

- the first and the last query block read every key once;
- any other query block i reads its window (blocks i-1, i, i+1), the first and the last block, each once, and
  `num_random_blocks` random blocks, which may name a block read already: then it is read once more.

A decoder's rows are read in full at every length, each query reading the keys up to its own.

With collapsed random attention every random block is block 0, so block 0 is read 1 + num_random_blocks times:
the same as once, with log(1 + num_random_blocks) added to its scores. With seeded random attention the blocks are
those that transformers draws in training, from NumPy's legacy generator seeded with the layer's index.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import groupby
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bigbird.config import BigBirdConfig
from bigbird.packing import close_starts

Indices = npt.NDArray[np.int64]

# The paper's plan of random blocks applies to these padded lengths, and keeps to the first 1024 tokens.
_PAPER_LENGTHS = (1024, 3072, 4096)
_PAPER_LAST_TOKEN = 1024


class Span(NamedTuple):
    """`runs` runs of `size` consecutive tokens on the packed axis, `step` apart (they may overlap)."""

    start: int
    size: int
    runs: int = 1
    step: int = 0

    def some(self, first: int, runs: int) -> "Span":
        """Of its runs those from `first`, at most `runs`."""
        return self._replace(start=self.start + first * self.step, runs=min(runs, self.runs - first))


class Part(NamedTuple):
    """Queries that read keys: spans are joined along the tokens, and have as many runs.

    causal: the i-th query reads the first i + 1 keys only.
    first_block: how many of the leading keys belong to block 0 of a row with collapsed random attention.
    adds: the queries have read other keys before; the two results are to be merged.
    """

    queries: tuple[Span, ...]
    keys: tuple[Span, ...]
    causal: bool = False
    first_block: int = 0
    adds: bool = False

    def cut(self, keys_at_once: int | None) -> "Iterator[Part]":
        """The same in parts of about so many keys, of one run at least; None: of all."""
        runs = self.keys[0].runs
        each = runs if keys_at_once is None else max(1, keys_at_once // sum(span.size for span in self.keys))
        for first in range(0, runs, each):
            yield self._replace(
                queries=tuple(span.some(first, each) for span in self.queries),
                keys=tuple(span.some(first, each) for span in self.keys),
            )


class RandomPart(NamedTuple):
    """Queries of a sparse row's middle blocks, and the blocks they read in addition, which differ by head.

    blocks: (num_heads, query blocks, num_random_blocks), indices of the row's blocks. The last one, which may be short,
    is among them in rows of the paper's lengths.
    """

    queries: Span
    row_start: int
    row_length: int
    blocks: Indices

    def cut(self, keys_at_once: int | None) -> "Iterator[RandomPart]":
        """The same in parts of about so many keys, of one query block at least; None: of all."""
        _, count, chosen = self.blocks.shape
        each = count if keys_at_once is None else max(1, keys_at_once // (chosen * self.queries.size))
        for first in range(0, count, each):
            yield self._replace(queries=self.queries.some(first, each), blocks=self.blocks[:, first : first + each])


@dataclass(frozen=True)
class AttentionPlan:
    """The plan of one packed batch. Hashable by value; cheap to make, and shared by all layers.

    lengths: tokens of each row. seeded: read the random blocks drawn for each layer instead of block 0.
    starts: where each row begins on the packed axis; by default a row follows the one before it at once.
    """

    config: BigBirdConfig
    lengths: tuple[int, ...]
    seeded: bool
    starts: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "starts", self.starts or close_starts(self.lengths))

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """Everything that is the same in all layers, in an order in which merging is possible."""
        parts: list[Part] = []
        # Rows of one length that follow each other at once: they are read together.
        offsets = [(n, start - row * n) for row, (n, start) in enumerate(zip(self.lengths, self.starts, strict=True))]
        for (length, _), rows in groupby(range(len(self.lengths)), key=offsets.__getitem__):
            members = list(rows)
            if self.config.is_sparse(length):
                for row in members:
                    parts += _sparse_parts(self.starts[row], length, self.config.block_size, self.seeded)
            else:
                together = (Span(self.starts[members[0]], length, len(members), length),)
                parts.append(Part(together, together, causal=self.config.is_decoder))
        return tuple(parts)

    def random_parts(self, layer: int) -> list[RandomPart]:
        """What seeded rows read in addition in `layer`; nothing when random attention is collapsed."""
        config = self.config
        if not self.seeded or config.num_random_blocks == 0:
            return []
        size = config.block_size
        return [
            RandomPart(
                Span(start + size, size, _num_blocks(length, size) - 2, size),
                start,
                length,
                seeded_random_blocks(
                    _num_blocks(length, size),
                    size,
                    config.num_random_blocks,
                    config.num_attention_heads,
                    config.max_position_embeddings,
                    layer,
                ),
            )
            for start, length in zip(self.starts, self.lengths, strict=True)
            if config.is_sparse(length)
        ]

    def key_counts(self, row: int, layer: int) -> Indices:
        """How often each query block of `row` reads each key block: (num_heads, blocks, blocks).

        The dense statement of this plan, from which the reference computes; causality, which is finer than blocks,
        comes on top.
        """
        config, length = self.config, self.lengths[row]
        blocks = _num_blocks(length, config.block_size)
        counts = np.ones((config.num_attention_heads, blocks, blocks), dtype=np.int64)
        if not config.is_sparse(length):
            return counts
        counts[:, 1:-1, 1:-1] = 0
        for block in range(1, blocks - 1):
            counts[:, block, block - 1 : block + 2] = 1
            if not self.seeded:
                counts[:, block, 0] += config.num_random_blocks
        for part in self.random_parts(layer):
            if part.row_start == self.starts[row]:
                heads, middle = np.indices(part.blocks.shape[:2])
                for chosen in range(config.num_random_blocks):
                    np.add.at(counts, (heads, middle + 1, part.blocks[:, :, chosen]), 1)
        return counts


def _num_blocks(length: int, block_size: int) -> int:
    return -(-length // block_size)


def _sparse_parts(start: int, length: int, size: int, seeded: bool) -> list[Part]:
    """The parts of one sparse row: the two global query blocks; the windows; the two global key blocks.

    Windows of the second and the second last block lack the neighbour that is global, so all their blocks are
    whole and no window reaches the last block, which may be short.
    """
    blocks = _num_blocks(length, size)
    first = Span(start, size)
    last = Span(start + (blocks - 1) * size, length - (blocks - 1) * size)
    edge = (blocks - 3) * size
    return [
        Part((first, last), (Span(start, length),)),
        Part((Span(start + 2 * size, size, blocks - 4, size),), (Span(start + size, 3 * size, blocks - 4, size),)),
        Part((Span(start + size, size, 2, edge),), (Span(start + size, 2 * size, 2, edge - size),)),
        Part(
            (Span(start + size, (blocks - 2) * size),),
            (first, last),
            first_block=0 if seeded else size,
            adds=True,
        ),
    ]


@lru_cache(maxsize=4096)
def seeded_random_blocks(
    num_blocks: int,
    block_size: int,
    num_random_blocks: int,
    num_heads: int,
    max_position_embeddings: int,
    layer: int,
) -> Indices:
    """The random blocks that transformers draws in training: (num_heads, num_blocks - 2, num_random_blocks).

    Entry [h, i - 1] is what query block i reads in head h. Padded lengths 1024, 3072 and 4096 follow the paper's
    plan, all others a plan by head; both restart NumPy's legacy generator at the layer's index. Where blocks are so
    large that the paper's plan leaves too few to choose from, transformers fails, and here the plan is by head.
    """
    random = np.random.RandomState(layer)
    limit = max_position_embeddings // block_size
    last = _PAPER_LAST_TOKEN // block_size - 1 if 2 * block_size < _PAPER_LAST_TOKEN else limit - 1
    fewest = min(last, limit - 2) - 3  # that a query block's window leaves to choose from
    if num_blocks * block_size in _PAPER_LENGTHS and fewest >= num_random_blocks:
        by_head = [_paper_plan(random, limit, last, num_random_blocks) for _ in range(num_heads)]
        return np.stack(by_head)[:, : num_blocks - 2]
    candidates = 2 * num_random_blocks + 5
    # No draw for the last block: its result would be unused, and no later draw depends on it.
    rows = [
        [_draw_by_head(random, block, candidates, num_random_blocks) for _ in range(num_heads)]
        for block in range(1, num_blocks - 1)
    ]
    return np.array(rows, dtype=np.int64).reshape(num_blocks - 2, num_heads, num_random_blocks).swapaxes(0, 1)


def _draw_by_head(random: np.random.RandomState, block: int, candidates: int, wanted: int) -> Sequence[int]:
    """Random blocks among the first `candidates`, outside the window, the first and the last of them."""
    order = random.permutation(np.arange(candidates, dtype=np.int32))
    barred = {block - 1, block, block + 1, 0, candidates - 1}
    if block == 1:
        barred.add(candidates - 2)
    if block == candidates - 2:
        barred.add(1)
    return [int(choice) for choice in order if int(choice) not in barred][:wanted]


def _paper_plan(random: np.random.RandomState, num_blocks: int, last: int, wanted: int) -> Indices:
    """One head's draw for a row of `num_blocks` blocks, the longest the model reads: (num_blocks - 2, wanted).

    last: the block up to which random ones are drawn.
    """
    middle = np.arange(1, num_blocks - 1, dtype=np.int32)
    chosen = np.zeros((num_blocks - 2, wanted), dtype=np.int64)
    for block in range(1, num_blocks - 1):
        before = min(block - 2, last)
        if block <= 2:
            allowed = middle[block + 1 : last]
        elif block >= num_blocks - 3:
            allowed = middle[:last]
        elif block - 2 > last or block + 1 == last:
            allowed = middle[:before]
        else:
            allowed = np.concatenate((middle[:before], middle[block + 1 : last]))
        chosen[block - 1] = random.permutation(allowed)[:wanted]
    return chosen
