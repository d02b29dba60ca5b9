"""A decoder's causal attention against the KV cache: full attention at every length, whatever `attention_type` says.

One object serves one forward pass over packed tokens, some of each sequence: one token of a sequence that is being
decoded, a chunk of one that is being prefilled, in any mixture. It appends the keys and values of the new tokens to
the cache and attends over all tokens up to each query's own.

Sequences with one new token are answered together, without a loop and without padding to the longest: every page is
a row of one batched product, whichever sequence it belongs to, and the pages' partial results are merged by their
log-sum-exps. A chunk attends to itself (causal) and to what the cache held before (unmasked), and
the two are merged by their log-sum-exps.

Legend: T packed tokens, H heads, D head dim, P pages, S page size, R sequences with one new token, M pages of the
longest of them, E encoder length, C hidden size.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bigbird.attention.kv_cache import KVCache
from bigbird.attention.reference import MASKED

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


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
            own, own_lse = attend_with_lse(q, k, v, causal=True)
            if before:
                past, past_lse = attend_with_lse(q, *self.cache.read(layer, sequence, before), causal=False)
                own = torch.lerp(own, past, torch.sigmoid(past_lse - own_lse).unsqueeze(-1).to(own.dtype))
            context[rows] = own[0].transpose(0, 1)
        return context


class CachedCrossAttention:
    """Attention of decoded tokens to an encoder's states, whose keys and values are computed in the first pass.

    encoder_states: (rows, E, C); attention_mask: (rows, E), 1 = attend, all by default.
    row_of: for every sequence being decoded, the row it reads.
    """

    def __init__(self, encoder_states: Tensor, attention_mask: Tensor | None = None) -> None:
        self.encoder_states = encoder_states
        self.row_of: dict[int, int] = {}
        self._bias = None
        if attention_mask is not None:
            masked = attention_mask == 0
            self._bias = torch.zeros(masked.shape, dtype=encoder_states.dtype, device=masked.device)
            self._bias = self._bias.masked_fill_(masked, MASKED)[:, None, None]
        self._known: dict[int, tuple[Tensor, Tensor]] = {}
        self._spans: list[tuple[int, int]] = []

    def begin(self, spans: Sequence[tuple[int, int]]) -> None:
        """The next pass is over these: (sequence, number of its new tokens), in packed order."""
        self._spans = [(self.row_of[sequence], num_tokens) for sequence, num_tokens in spans]

    def known(self, layer: int) -> tuple[Tensor, Tensor] | None:
        """Key and value of the encoder's states, (rows, H, E, D), once a pass has computed them."""
        return self._known.get(layer)

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query: (T, H, D); key, value: (rows, H, E, D) -> context (T, H, D)."""
        self._known[layer] = key, value
        contexts, start = [], 0
        for row, num_tokens in self._spans:
            q = query[start : start + num_tokens].transpose(0, 1)[None]
            bias = None if self._bias is None else self._bias[row : row + 1]
            context = F.scaled_dot_product_attention(q, key[row : row + 1], value[row : row + 1], attn_mask=bias)
            contexts.append(context[0].transpose(0, 1))
            start += num_tokens
        return torch.cat(contexts)


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
        partial, lse = _attend_pages(query[self.owner], keys, values, self.bias)
        # Merge: every page weighs what its scores' exponentials sum to, beside those of the sequence's other pages.
        lse_RMH = lse[self.table] + self.absent
        weights_RMH = lse_RMH.softmax(1)
        context = (weights_RMH.unsqueeze(-1) * partial[self.table]).sum(1)
        return context.to(query.dtype)


def _attend_pages(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """One query a page. query: (P, H, D); keys, values: (P, H, S, D); bias: (P, 1, 1, S) -> (P, H, D), (P, H) float32.

    The fused kernel keeps half-precision scores exact; in float32, products written out are twice as fast.
    """
    pages, heads, size, dim = keys.shape
    if query.device.type == "cpu" and query.dtype != torch.float32:
        mask = bias.expand(pages, heads, 1, size)
        context, lse = _flash(query.unsqueeze(2), keys, values, attn_mask=mask)
        return context.squeeze(2).float(), lse.squeeze(2)
    q = (query * dim**-0.5).view(pages * heads, 1, dim)
    rows_bias = bias.expand(pages, heads, 1, size).reshape(pages * heads, 1, size)
    scores = torch.baddbmm(rows_bias, q, keys.view(pages * heads, size, dim).transpose(1, 2)).float()
    largest = scores.amax(-1, keepdim=True)
    weights = scores.sub_(largest).exp_()
    sums = weights.sum(-1, keepdim=True)
    context = torch.bmm(weights.to(values.dtype), values.view(pages * heads, size, dim)).float() / sums
    return context.view(pages, heads, dim), (largest + sums.log()).view(pages, heads)


def attend_with_lse(query: Tensor, key: Tensor, value: Tensor, *, causal: bool) -> tuple[Tensor, Tensor]:
    """Scaled dot-product attention and the log-sum-exp of its scores.

    query: (1, H, Q, D); key, value: (1, H, K, D) -> (1, H, Q, D), (1, H, Q) float32.
    causal: query i reads keys 0 to i.
    """
    if query.device.type == "cpu":
        context, lse = _flash(query, key, value, is_causal=causal)
        return context, lse
    return _written_out(query, key, value, causal=causal)


def _written_out(query: Tensor, key: Tensor, value: Tensor, *, causal: bool) -> tuple[Tensor, Tensor]:
    scores = ((query * query.shape[-1] ** -0.5) @ key.transpose(2, 3)).float()
    if causal:
        scores += torch.full(scores.shape[-2:], -torch.inf, device=scores.device).triu(1)
    lse = scores.logsumexp(-1)
    return (scores - lse.unsqueeze(-1)).exp().to(value.dtype) @ value, lse
