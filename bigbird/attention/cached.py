"""A decoder's causal attention against the KV cache: full attention at every length, whatever `attention_type` says.

One object serves one forward pass over packed tokens, some of each sequence: one token of a sequence that is being
decoded, a chunk of one that is being prefilled, in any mixture. It appends the keys and values of the new tokens to
the cache and attends over all tokens up to each query's own.

Sequences with one new token are answered together, without a loop and without padding to the longest: every page is
a row of one batched product, whichever sequence it belongs to, and the pages' partial results are merged by their
log-sum-exps. A chunk attends to itself (causal) and to what the cache held before (unmasked), and
the two are merged by their log-sum-exps.

Legend: T packed tokens, H heads, D head dim, P pages, S page size, R sequences with one new token, M pages of the
longest of them.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bigbird.attention.kv_cache import KVCache
from bigbird.attention.partial import attend, merge_
from bigbird.attention.past import CrossAttention


class CachedAttention:
    """Attention for `model.bert.encoder` over new tokens of the given sequences.

    spans: (sequence, number of its new tokens), in packed order; a sequence appears once. Making the object takes
    the room in the cache; it then has to see every layer once.
    position_ids: (T,), the new tokens' positions in their sequences.
    """

    def __init__(self, cache: KVCache, spans: Sequence[tuple[int, int]]) -> None:
        self.cache = cache
        device = cache.keys[0].device
        single_rows: list[int] = []
        singles: list[int] = []
        self._chunks: list[tuple[int, int, int, int]] = []  # first row, new tokens, sequence, tokens before
        pages, offsets, positions = [], [], []
        row = 0
        for sequence, num_tokens in spans:
            before = cache.length(sequence)
            where = cache.extend(sequence, num_tokens)
            pages.append(where[0])
            offsets.append(where[1])
            positions.append(np.arange(before, before + num_tokens))
            if num_tokens == 1:
                single_rows.append(row)
                singles.append(sequence)
            else:
                self._chunks.append((row, num_tokens, sequence, before))
            row += num_tokens
        self._pages, self._offsets, self.position_ids = (
            torch.from_numpy(np.concatenate(parts)).to(device) for parts in (pages, offsets, positions)
        )
        self._singles = _PagedDecode(cache, singles) if singles else None
        self._single_rows = torch.tensor(single_rows, device=device) if self._chunks else None

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query, key, value: (T, H, D) -> context (T, H, D)."""
        self.cache.write(layer, self._pages, self._offsets, key, value)
        if self._single_rows is None:
            assert self._singles is not None
            return self._singles(layer, query)
        context = torch.empty_like(query)
        if self._singles is not None:
            context[self._single_rows] = self._singles(layer, query[self._single_rows])
        for row, num_tokens, sequence, before in self._chunks:
            rows = slice(row, row + num_tokens)
            q, k, v = (states[rows].transpose(0, 1)[None] for states in (query, key, value))
            own, own_lse = attend(q, k, v, causal=True)
            if before:
                merge_(own, own_lse, *attend(q, *self.cache.read(layer, sequence, before)))
            context[rows] = own[0].transpose(0, 1)
        return context


class CachedCrossAttention(CrossAttention):
    """Cross-attention of sequences that are being decoded: keys and values are computed in the first pass.

    row_of: for every sequence being decoded, the row of the encoder's states that it reads.
    """

    def __init__(self, states: Tensor, attention_mask: Tensor | None = None) -> None:
        super().__init__(states, states.new_ones(states.shape[:2]) if attention_mask is None else attention_mask)
        self.row_of: dict[int, int] = {}

    def begin(self, spans: Sequence[tuple[int, int]]) -> None:
        """The next pass is over these: (sequence, number of its new tokens), in packed order."""
        super().begin([(self.row_of[sequence], num_tokens) for sequence, num_tokens in spans])


class _PagedDecode:
    """One query per sequence against all of its pages, the plan of which is made once and used by every layer."""

    def __init__(self, cache: KVCache, sequences: Sequence[int]) -> None:
        self.cache = cache
        tables = [cache.pages(sequence) for sequence in sequences]
        counts = np.array([len(table) for table in tables])
        entry_pages = np.concatenate([np.asarray(table) for table in tables])
        entry_sequences = np.repeat(np.arange(len(tables)), counts)
        # A page several sequences share stands once in storage but is needed by each: repeated, it is gathered.
        # So is everything when the pages in use lie too far apart to read all that lies between.
        extent = int(entry_pages.max()) + 1
        distinct = len(np.unique(entry_pages)) == len(entry_pages)
        self.gathers = not distinct or extent > 2 * len(entry_pages)
        num_rows = len(entry_pages) if self.gathers else extent
        rows = np.arange(len(entry_pages)) if self.gathers else entry_pages
        owner = np.zeros(num_rows, dtype=np.int64)
        owner[rows] = entry_sequences  # rows of nobody here compute something that nobody reads
        bias = np.zeros((num_rows, cache.page_size), dtype=np.float32)
        ends = np.cumsum(counts) - 1
        lengths = np.array([cache.length(sequence) for sequence in sequences])
        filled = lengths - (counts - 1) * cache.page_size
        bias[rows[ends]] = np.where(np.arange(cache.page_size) < filled[:, None], 0.0, -np.inf)
        # Merge table (R, M): which row holds the sequence's m-th page; absent ones repeat a row, at weight zero.
        order = np.arange(counts.max())
        present = order < counts[:, None]
        starts = ends - counts + 1
        table = rows[np.where(present, starts[:, None] + order, starts[:, None])]

        keys = cache.keys[0]
        self.pages = torch.from_numpy(entry_pages).to(keys.device)
        self.extent = extent
        self.owner = torch.from_numpy(owner).to(keys.device)
        self.bias = torch.from_numpy(bias)[:, None, None].to(keys.device, keys.dtype)
        self.table = torch.from_numpy(table).to(keys.device)
        absent = np.where(present, 0.0, -np.inf).astype(np.float32)
        self.absent = torch.from_numpy(absent)[:, :, None].to(keys.device)

    def __call__(self, layer: int, query: Tensor) -> Tensor:
        """query: (R, H, D) -> context (R, H, D)."""
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        keys, values = (
            (keys[self.pages], values[self.pages])
            if self.gathers
            else (
                keys[: self.extent],
                values[: self.extent],
            )
        )
        context, lse = attend(query[self.owner].unsqueeze(2), keys, values, self.bias)
        # Merge: every page weighs what its scores' exponentials sum to, beside those of the sequence's other pages.
        weights_RMH = (lse.flatten(1)[self.table] + self.absent).softmax(1)
        return (weights_RMH.unsqueeze(-1) * context.squeeze(2)[self.table]).sum(1).to(query.dtype)
