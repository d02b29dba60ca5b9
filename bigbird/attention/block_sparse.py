"""The fast path in plain PyTorch: time and memory linear in the length, no (n, n) matrix, forwards and backwards.

The plan's parts become pieces of `parts`. Legend: T packed tokens, H heads, N runs of a span, K keys, D head dim.
"""

import math

import numpy as np
import torch
from torch import Tensor

from bigbird.attention.parts import Piece, SpanPiece, attend_parts, mask_bias
from bigbird.attention.plan import AttentionPlan, RandomPart, Span
from bigbird.attention.reference import MASKED
from bigbird.packing import to_device

# Tokens whose keys a part holds at a time, on CPU, so that they stay in the cache.
KEYS_AT_ONCE = 2048


class BlockSparseAttention:
    """Attention of one packed batch by its plan.

    attended: (T,) bool, False for tokens no query may read; None when all may be read.
    dropout: probability with which an attention weight is dropped.
    """

    def __init__(self, plan: AttentionPlan, attended: Tensor | None = None, *, dropout: float = 0.0) -> None:
        self.plan = plan
        self.dropout = dropout
        self.key_bias = mask_bias(attended)
        self._same: list[Piece] | None = None  # in all layers
        self._random_blocks: list[list[Tensor]] | None = None  # of every layer's random parts

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query, key, value: (T, H, D) -> context (T, H, D)."""
        if self.plan.seeded:
            key, value = key.contiguous(), value.contiguous()  # once, for all gathers of blocks
        return attend_parts(self._pieces(layer, query.device), query, key, value, self.dropout)

    def _pieces(self, layer: int, device: torch.device) -> list[Piece]:
        at_once = KEYS_AT_ONCE if device.type == "cpu" else None
        if self._same is None:
            self._same = [
                SpanPiece(
                    cut.queries,
                    cut.keys,
                    causal=cut.causal,
                    adds=cut.adds,
                    key_bias=self.key_bias,
                    first=cut.first_block,
                    first_bias=math.log1p(self.plan.config.num_random_blocks),
                )
                for part in self.plan.parts
                for cut in part.cut(at_once)
            ]
        pieces: list[Piece] = []
        for part, blocks in zip(self.plan.random_parts(layer), self._sent_blocks(layer, device), strict=True):
            cuts = list(part.cut(at_once))
            of_cuts = blocks.split([cut.blocks.shape[1] for cut in cuts], dim=1)
            pieces += [_RandomPiece(cut, of_cut, self) for cut, of_cut in zip(cuts, of_cuts, strict=True)]
        return [*self._same, *pieces]

    def _sent_blocks(self, layer: int, device: torch.device) -> list[Tensor]:
        """The blocks of a layer's random parts on the device. Those of all layers go there in one copy a batch, which
        the host does not wait for."""
        if self._random_blocks is None:
            layers = range(self.plan.config.num_hidden_layers)
            blocks = [[part.blocks for part in self.plan.random_parts(layer)] for layer in layers]
            flat = [part.ravel() for of_layer in blocks for part in of_layer]
            sent = to_device(np.concatenate([*flat, np.empty(0, dtype=np.int64)]), device)
            parts = iter(sent.split([len(part) for part in flat]) if flat else ())
            self._random_blocks = [[next(parts).view(part.shape) for part in of_layer] for of_layer in blocks]
        return self._random_blocks[layer]


class _RandomPiece:
    """The random blocks of one row, gathered by head."""

    adds = True
    causal = False

    def __init__(self, part: RandomPart, blocks: Tensor, attention: BlockSparseAttention) -> None:
        """blocks: the part's own, on the device."""
        size = attention.plan.config.block_size
        self.queries: tuple[Span, ...] = (part.queries,)
        self.key_bias = attention.key_bias
        heads, count, chosen = blocks.shape
        device = blocks.device
        tokens = blocks[..., None] * size + torch.arange(size, device=device)
        tokens = tokens.transpose(0, 1).reshape(count, heads, chosen * size)
        # Where a short last block has ended already; whether one is read, the host knows without asking the device.
        is_short = (int(part.blocks.max()) + 1) * size > part.row_length
        self.beyond = (tokens >= part.row_length).unsqueeze(2) if is_short else None
        self.tokens = part.row_start + tokens.clamp(max=part.row_length - 1)
        self.places = (self.tokens * heads + torch.arange(heads, device=device)[:, None]).flatten()  # on (T * H, D)

    def keys(self, states: Tensor) -> Tensor:
        chosen = states.view(-1, states.shape[2]).index_select(0, self.places)
        return chosen.view(*self.tokens.shape, -1)

    def add_to_keys(self, target: Tensor, gradient: Tensor) -> None:
        target.view(-1, target.shape[2]).index_add_(0, self.places, gradient.reshape(-1, target.shape[2]))

    def bias(self, like: Tensor) -> Tensor | None:
        bias = None if self.key_bias is None else self.key_bias[self.tokens].unsqueeze(2).to(like.dtype)
        if self.beyond is not None:
            bias = like.new_zeros(self.beyond.shape) if bias is None else bias
            bias = bias.masked_fill(self.beyond, MASKED)
        return bias
