"""A decoder's causal attention against the KV cache: full attention at every length, whatever `attention_type` says.

One object serves one forward pass over packed tokens, some of each sequence: one token of a sequence that is being
decoded, a chunk of one that is being prefilled, in any mixture. It appends the keys and values of the new tokens to
the cache and attends over all tokens up to each query's own.

Sequences with few new tokens (one, or a draft's) are answered together, without a loop and without padding to the
longest: every page is a row of one batched product, whichever sequence it belongs to, and the pages' partial results
are merged by their log-sum-exps. A chunk attends to itself (causal) and to what the cache held before (unmasked), and
the two are merged by their log-sum-exps.

Legend: T packed tokens, H heads, D head dim, P pages, S page size, R sequences with few new tokens, Q the most that one
of them has, M pages of the longest of them.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bigbird.attention.kv_cache import KVCache
from bigbird.attention.partial import attend, merge_
from bigbird.attention.past import CrossAttention

_FEW = 16
"""New tokens of a sequence up to which its pages are read as they lie; a longer chunk copies what stands before it."""


class CachedAttention:
    """Attention for `model.bert.encoder` over new tokens of the given sequences.

    spans: (sequence, number of its new tokens), in packed order; a sequence appears once. Making the object takes
    the room in the cache; it then has to see every layer once.
    position_ids: (T,), the new tokens' positions in their sequences.
    """

    def __init__(self, cache: KVCache, spans: Sequence[tuple[int, int]]) -> None:
        self.cache = cache
        device = cache.keys[0].device
        few_rows: list[int] = []
        few: list[tuple[int, int]] = []  # sequence, new tokens
        self._chunks: list[tuple[int, int, int, int]] = []  # first row, new tokens, sequence, tokens before
        pages, offsets, positions = [], [], []
        row = 0
        for sequence, num_tokens in spans:
            before = cache.length(sequence)
            where = cache.extend(sequence, num_tokens)
            pages.append(where[0])
            offsets.append(where[1])
            positions.append(np.arange(before, before + num_tokens))
            if num_tokens == 1 or (before and num_tokens <= _FEW):
                few_rows += range(row, row + num_tokens)
                few.append((sequence, num_tokens))
            else:
                self._chunks.append((row, num_tokens, sequence, before))
            row += num_tokens
        self._pages, self._offsets, self.position_ids = (
            torch.from_numpy(np.concatenate(parts)).to(device) for parts in (pages, offsets, positions)
        )
        self._few = _PagedDecode(cache, few) if few else None
        self._few_rows = torch.tensor(few_rows, device=device) if self._chunks else None

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query, key, value: (T, H, D) -> context (T, H, D)."""
        self.cache.write(layer, self._pages, self._offsets, key, value)
        if self._few_rows is None:
            assert self._few is not None
            return self._few(layer, query)
        context = torch.empty_like(query)
        if self._few is not None:
            context[self._few_rows] = self._few(layer, query[self._few_rows])
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
    """Few queries a sequence against all of its pages, the plan of which is made once and used by every layer.

    spans: (sequence, number of its new tokens, which the cache has room for already), in packed order.
    """

    def __init__(self, cache: KVCache, spans: Sequence[tuple[int, int]]) -> None:
        self.cache = cache
        tables = [cache.pages(sequence) for sequence, _ in spans]
        counts = np.array([len(table) for table in tables])
        entry_pages = np.concatenate([np.asarray(table) for table in tables])
        entry_spans = np.repeat(np.arange(len(tables)), counts)
        # A page several sequences share stands once in storage but is needed by each: repeated, it is gathered.
        # So is everything when the pages in use lie too far apart to read all that lies between.
        extent = int(entry_pages.max()) + 1
        distinct = len(np.unique(entry_pages)) == len(entry_pages)
        self.gathers = not distinct or extent > 2 * len(entry_pages)
        num_rows = len(entry_pages) if self.gathers else extent
        rows = np.arange(len(entry_pages)) if self.gathers else entry_pages
        # The queries of each sequence (R, Q). One with fewer repeats its last query; the repeated results are not used.
        num_new = np.array([num_tokens for _, num_tokens in spans])
        order = np.minimum(np.arange(num_new.max()), num_new[:, None] - 1)
        queries = np.cumsum(num_new)[:, None] - num_new[:, None] + order
        queries_of_rows = np.zeros((num_rows, order.shape[1]), dtype=np.int64)
        queries_of_rows[rows] = queries[entry_spans]  # pages of no sequence are computed and not used
        # Keys that a query reads of a page: up to its own position. Finite, since it may read none of a page.
        lengths = np.array([cache.length(sequence) for sequence, _ in spans])
        visible = (lengths[:, None] - num_new[:, None] + order + 1)[entry_spans]
        starts = np.cumsum(counts) - counts
        first_tokens = (np.arange(len(entry_pages)) - starts[entry_spans]) * cache.page_size
        visible -= first_tokens[:, None]
        keys = cache.keys[0]
        hidden = np.arange(cache.page_size) >= visible[:, :, None]
        bias = np.zeros((num_rows, *hidden.shape[1:]), dtype=np.float32)
        bias[rows] = np.where(hidden, torch.finfo(keys.dtype).min / 2, 0.0)
        # Merge table (R, M): which row holds the sequence's m-th page; absent ones repeat a row, at weight zero.
        place = np.arange(counts.max())
        present = place < counts[:, None]
        table = rows[np.where(present, starts[:, None] + place, starts[:, None])]
        absent = np.where(present, 0.0, -np.inf).astype(np.float32)[:, :, None, None, None]

        self.pages = torch.from_numpy(entry_pages).to(keys.device)
        self.extent = extent
        self.queries = torch.from_numpy(queries_of_rows).to(keys.device)
        self.bias = torch.from_numpy(bias)[:, None].to(keys.device, keys.dtype)
        self.table = torch.from_numpy(table).to(keys.device)
        self.absent = torch.from_numpy(absent).to(keys.device)
        wanted = np.arange(order.shape[1]) < num_new[:, None]
        self.wanted = None if wanted.all() else torch.from_numpy(wanted.flatten()).to(keys.device)

    def __call__(self, layer: int, query: Tensor) -> Tensor:
        """query: (new tokens, H, D) -> context (new tokens, H, D)."""
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        if self.gathers:
            keys, values = keys[self.pages], values[self.pages]
        else:
            keys, values = keys[: self.extent], values[: self.extent]
        context, lse = attend(
            query[self.queries].transpose(1, 2), keys, values, self.bias
        )  # (P, H, Q, D), (P, H, Q, 1)
        # Merge: every page weighs what its scores' exponentials sum to, beside those of the sequence's other pages.
        weights = (lse[self.table] + self.absent).softmax(1)
        merged = (weights * context[self.table]).sum(1).to(query.dtype).transpose(1, 2).flatten(0, 1)
        return merged if self.wanted is None else merged[self.wanted]
