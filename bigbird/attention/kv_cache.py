"""Keys and values of many sequences, in pages.

A page holds `page_size` consecutive tokens of one sequence, of every layer. Sequences list their pages in a table, so
a finished one gives its memory back at once, in whatever order sequences end; full pages may belong to several
sequences (a shared prefix, the beams of a search) and are counted. A sequence reserves, when it is opened, the room
it may come to need, forks included: what has been admitted never runs out of cache half-way. Memory is allocated in
steps, as pages are first used.

Knows nothing of tokens, models or attention; not thread-safe.

Legend: L layers, P pages, H heads, S page size, D head dim, T packed tokens.
"""

import heapq
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bigbird.errors import BigBirdError
from bigbird.linear.memory import on_large_pages

Indices = NDArray[np.int64]
PAGE_SIZE = 64


class CacheFullError(BigBirdError):
    """More tokens were asked for than the cache has room for. Admission asks `fits` first."""


class KVCache:
    """Paged storage for the keys and values of decoding.

    keys[layer], values[layer]: (P, H, S, D), of which the first `num_allocated_pages` exist.
    max_tokens: how many tokens all sequences together may hold, rounded up to whole pages.
    """

    def __init__(
        self,
        *,
        num_layers: int,
        num_heads: int,
        head_dim: int,
        max_tokens: int,
        page_size: int = PAGE_SIZE,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        sizes = {
            "num_layers": num_layers,
            "num_heads": num_heads,
            "head_dim": head_dim,
            "max_tokens": max_tokens,
            "page_size": page_size,
        }
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        self.page_size = page_size
        self.num_pages = self.pages_for(max_tokens)
        self.num_allocated_pages = 0
        empty = torch.empty(0, num_heads, page_size, head_dim, dtype=dtype, device=device)
        self.keys = [empty.clone() for _ in range(num_layers)]
        self.values = [empty.clone() for _ in range(num_layers)]
        self._free = list(range(self.num_pages))  # a heap: low pages first keeps the pages in use together
        self._is_stale = np.zeros(self.num_pages, dtype=np.bool_)  # pages that hold what a former owner wrote
        self._num_owners: Indices = np.zeros(self.num_pages, dtype=np.int64)
        self._taken_by: Indices = np.zeros(self.num_pages, dtype=np.int64)  # the reservation a page came out of
        self._tables: dict[int, list[int]] = {}
        self._lengths: dict[int, int] = {}
        self._reservation: dict[int, int] = {}  # of each sequence; forks share their parent's
        self._reserved: dict[int, int] = {}  # pages that may still be taken out of a reservation
        self._next_sequence = 0

    @classmethod
    def for_model(cls, model: Any, max_tokens: int) -> "KVCache":
        """An empty cache of a model's shape, type and device."""
        config = model.config
        return cls(
            num_layers=config.num_hidden_layers,
            num_heads=config.num_attention_heads,
            head_dim=config.head_dim,
            max_tokens=max_tokens,
            dtype=model.dtype,
            device=model.device,
        )

    def pages_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.page_size)

    @property
    def num_sequences(self) -> int:
        return len(self._lengths)

    @property
    def num_used_pages(self) -> int:
        return self.num_pages - len(self._free)

    @property
    def num_available_pages(self) -> int:
        """Pages neither in use nor promised to an open sequence."""
        return len(self._free) - sum(self._reserved.values())

    def fits(self, num_tokens: int, num_forks: int = 0) -> bool:
        """Whether a sequence that may grow to num_tokens, and so many forks of it, can be opened now."""
        return self.pages_for(num_tokens) * (1 + num_forks) <= self.num_available_pages

    def open(self, num_tokens: int, num_forks: int = 0) -> int:
        """A new sequence that may grow to num_tokens, and have so many forks at a time that do; returns its number.

        Raises CacheFullError when there is no room.
        """
        num_pages = self.pages_for(num_tokens) * (1 + num_forks)
        if num_pages > self.num_available_pages:
            raise CacheFullError(
                f"a sequence of {num_tokens} tokens needs {num_pages} pages of {self.page_size}; "
                f"{self.num_available_pages} of {self.num_pages} are available"
            )
        sequence = self._new_sequence()
        self._reservation[sequence] = sequence
        self._reserved[sequence] = num_pages
        return sequence

    def adopt(self, sequence: int, prefix_of: int, num_tokens: int) -> None:
        """Let an open, still empty sequence begin with another's first tokens, whose pages it shares.

        They must be whole pages, already written. The sequence's reservation shrinks by them.
        """
        if self._lengths[sequence]:
            raise ValueError(f"sequence {sequence} must be empty to adopt a prefix, has {self._lengths[sequence]}")
        if num_tokens % self.page_size or num_tokens > self._lengths[prefix_of]:
            raise ValueError(
                f"num_tokens must be whole pages of {self.page_size} within the "
                f"{self._lengths[prefix_of]} tokens of sequence {prefix_of}, got {num_tokens}"
            )
        self._share(sequence, prefix_of, num_tokens // self.page_size)
        self._reserved[self._reservation[sequence]] -= num_tokens // self.page_size

    def fork(self, sequence: int) -> int:
        """A new sequence with the same tokens, free to go on differently, out of the same reservation.

        Full pages are shared; a page begun is copied, since both will write to it.
        """
        length = self._lengths[sequence]
        num_full, rest = divmod(length, self.page_size)
        child = self._new_sequence()
        self._reservation[child] = self._reservation[sequence]
        self._share(child, sequence, num_full)
        if rest:
            source = self._tables[sequence][num_full]
            (target,) = self._take(child, 1)
            for states in (*self.keys, *self.values):
                states[target].copy_(states[source])
            self._lengths[child] = length
        return child

    def reorder(self, sequences: Sequence[int], parents: Sequence[int]) -> list[int]:
        """Sequences with the tokens of those at `parents` among the given ones, as a beam search goes on with.

        A parent's first child is the parent itself, the others are forks; those without a child are freed.
        """
        kept = [sequences[parent] for parent in parents]
        for sequence in set(sequences) - set(kept):
            self.free(sequence)
        return [self.fork(parent) if parent in kept[:place] else parent for place, parent in enumerate(kept)]

    def free(self, sequence: int) -> None:
        """Give back a sequence's pages, and with the last of its reservation what is left of that."""
        for page in self._tables.pop(sequence):
            self._num_owners[page] -= 1
            if not self._num_owners[page]:
                heapq.heappush(self._free, page)
                if self._taken_by[page] in self._reserved:
                    self._reserved[int(self._taken_by[page])] += 1
        del self._lengths[sequence]
        reservation = self._reservation.pop(sequence)
        if reservation not in self._reservation.values():
            del self._reserved[reservation]

    def truncate(self, sequence: int, num_tokens: int) -> None:
        """Forget a sequence's tokens from num_tokens on; its pages stay its own."""
        if not 0 <= num_tokens <= self._lengths[sequence]:
            raise ValueError(f"num_tokens must be from 0 to {self._lengths[sequence]}, got {num_tokens}")
        self._lengths[sequence] = num_tokens

    def length(self, sequence: int) -> int:
        """Tokens the sequence holds."""
        return self._lengths[sequence]

    def pages(self, sequence: int) -> list[int]:
        """The pages of the sequence's tokens, in their order."""
        return self._tables[sequence][: self.pages_for(self._lengths[sequence])]

    def extend(self, sequence: int, num_tokens: int) -> tuple[Indices, Indices]:
        """Make room for num_tokens more; where they go: page and offset within it, each (num_tokens,)."""
        start = self._lengths[sequence]
        table = self._tables[sequence]
        self._take(sequence, self.pages_for(start + num_tokens) - len(table))
        self._lengths[sequence] = start + num_tokens
        if num_tokens == 1:  # most calls by far
            page, offset = divmod(start, self.page_size)
            return np.array([table[page]]), np.array([offset])
        positions = np.arange(start, start + num_tokens)
        return np.array(table)[positions // self.page_size], positions % self.page_size

    def write(self, layer: int, pages: Tensor, offsets: Tensor, key: Tensor, value: Tensor) -> None:
        """Store tokens where `extend` said. pages, offsets: (T,); key, value: (T, H, D)."""
        self.keys[layer][pages, :, offsets] = key
        self.values[layer][pages, :, offsets] = value

    def read(self, layer: int, sequence: int, num_tokens: int | None = None) -> tuple[Tensor, Tensor]:
        """Key and value of a sequence's first tokens, all by default, copied together: (1, H, num_tokens, D) each."""
        num_tokens = self._lengths[sequence] if num_tokens is None else num_tokens
        table = self._tables[sequence][: self.pages_for(num_tokens)]
        pages = torch.tensor(table, dtype=torch.int64, device=self.keys[layer].device)
        key, value = (
            states[layer][pages].transpose(0, 1).flatten(1, 2)[None, :, :num_tokens]
            for states in (self.keys, self.values)
        )
        return key, value

    def _new_sequence(self) -> int:
        sequence = self._next_sequence
        self._next_sequence += 1
        self._tables[sequence] = []
        self._lengths[sequence] = 0
        return sequence

    def _share(self, sequence: int, source: int, num_pages: int) -> None:
        """Begin a sequence with another's first pages, all full."""
        shared = self._tables[source][:num_pages]
        self._tables[sequence] = shared
        self._lengths[sequence] = num_pages * self.page_size
        self._num_owners[shared] += 1

    def _take(self, sequence: int, num_pages: int) -> list[int]:
        """Move free pages into a sequence's table, out of its reservation."""
        if num_pages <= 0:
            return []
        reservation = self._reservation[sequence]
        if num_pages > self._reserved[reservation]:
            raise CacheFullError(
                f"sequence {sequence} reserved {self._reserved[reservation]} more pages of {self.page_size} tokens; "
                f"{num_pages} are needed"
            )
        taken = [heapq.heappop(self._free) for _ in range(num_pages)]
        self._reserved[reservation] -= num_pages
        self._taken_by[taken] = reservation
        self._num_owners[taken] = 1
        self._tables[sequence] += taken
        if max(taken) >= self.num_allocated_pages:
            self._grow(max(taken) + 1)
        if stale := [page for page in taken if self._is_stale[page]]:
            # Pages are read whole and masked, and 0 * NaN is NaN: one broken text must not reach another.
            for states in (*self.keys, *self.values):
                states[stale] = 0
        self._is_stale[taken] = True
        return taken

    def _grow(self, num_pages: int) -> None:
        """Allocate at least num_pages, half as many again as there were, at most all."""
        size = min(self.num_pages, max(num_pages, self.num_allocated_pages * 3 // 2))
        with torch.inference_mode(False):  # ordinary tensors, which may be written to inside that mode and outside
            for storage in (self.keys, self.values):
                for layer, states in enumerate(storage):
                    # Zeros, not whatever memory holds: see `_take`.
                    grown = on_large_pages(states.new_empty(size, *states.shape[1:])).zero_()
                    grown[: states.shape[0]] = states
                    storage[layer] = grown
        self.num_allocated_pages = size
