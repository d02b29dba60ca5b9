"""The fast path in plain PyTorch: time and memory linear in the length, no (n, n) matrix, forwards and backwards.

The plan's parts become pieces of `parts`. Legend: T packed tokens, H heads, N runs of a span, K keys, D head dim.
"""

import math

import torch
from torch import Tensor

from bigbird.attention.parts import Piece, SpanPiece, attend_parts, mask_bias
from bigbird.attention.plan import AttentionPlan, RandomPart, Span
from bigbird.attention.reference import MASKED

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
        random = (cut for part in self.plan.random_parts(layer) for cut in part.cut(at_once))
        return [*self._same, *(_RandomPiece(part, self, device) for part in random)]


class _RandomPiece:
    """The random blocks of one row, gathered by head."""

    adds = True
    causal = False

    def __init__(self, part: RandomPart, attention: BlockSparseAttention, device: torch.device) -> None:
        size = attention.plan.config.block_size
        self.queries: tuple[Span, ...] = (part.queries,)
        self.key_bias = attention.key_bias
        heads, count, chosen = part.blocks.shape
        blocks = torch.from_numpy(part.blocks).to(device)
        tokens = blocks[..., None] * size + torch.arange(size, device=device)
        tokens = tokens.transpose(0, 1).reshape(count, heads, chosen * size)
        beyond = tokens >= part.row_length  # where a short last block has ended already
        self.beyond = beyond.unsqueeze(2) if beyond.any() else None
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
