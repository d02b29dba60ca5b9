"""The fast path in plain PyTorch: time and memory linear in the length, no (n, n) matrix, forwards and backwards.

Every part of the plan is attention over some of a query's keys. Results over disjoint keys are merged by their
log-sum-exps: with out_a, lse_a and out_b, lse_b the merged result is out_a + sigmoid(lse_b - lse_a) * (out_b - out_a).
Windows are strided views with overlapping rows, so no key is copied for them.

On CPU, parts go through torch's fused flash attention, which returns the log-sum-exp; backwards, its own backward
is called for each part with the *merged* result and log-sum-exp, which makes every part's gradient exact without
keeping a part. Elsewhere, and with dropout, parts are written out (`_written_out`) and autograd does the rest.

Legend: T packed tokens, H heads, N runs of a span, Q queries, K keys, D head dim.
"""

import math
from typing import Any

import torch
from torch import Tensor

from bigbird.attention.plan import AttentionPlan, Part, RandomPart, Span
from bigbird.attention.reference import MASKED

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


# Tokens whose keys a part holds at a time, on CPU: in buffers that a process keeps and that stay in the cache. Fresh
# memory for all windows of a long row costs as much as half of their attention.
KEYS_AT_ONCE = 2048

_Pieces = list[Any]
"""_Piece and _RandomPiece, in the plan's order: what adds comes after what it adds to."""


class BlockSparseAttention:
    """Attention of one packed batch by its plan.

    attended: (T,) bool, False for tokens no query may read; None when all may be read.
    dropout: probability with which an attention weight is dropped.
    """

    def __init__(self, plan: AttentionPlan, attended: Tensor | None = None, *, dropout: float = 0.0) -> None:
        self.plan = plan
        self.dropout = dropout
        self.key_bias = None
        if attended is not None:
            self.key_bias = torch.zeros(attended.shape, device=attended.device).masked_fill(~attended, MASKED)

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query, key, value: (T, H, D) -> context (T, H, D)."""
        if self.plan.seeded:
            key, value = key.contiguous(), value.contiguous()  # once, for all gathers of blocks
        if _has_flash(query) and self.dropout == 0.0:
            pieces = self._pieces(layer, query.device, KEYS_AT_ONCE)
            if torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad):
                context: Tensor = _FlashParts.apply(pieces, query, key, value)  # type: ignore[no-untyped-call]
                return context
            return _forward(pieces, query, key, value)[0]
        return _written_out(self._pieces(layer, query.device), query, key, value, self.dropout)

    def _pieces(self, layer: int, device: torch.device, keys_at_once: int | None = None) -> _Pieces:
        pieces: _Pieces = [_Piece(cut, self) for part in self.plan.parts for cut in part.cut(keys_at_once)]
        random = (cut for part in self.plan.random_parts(layer) for cut in part.cut(keys_at_once))
        return pieces + [_RandomPiece(part, self, device) for part in random]


def _has_flash(states: Tensor) -> bool:
    return states.device.type == "cpu"


def view(states: Tensor, span: Span) -> Tensor:
    """The span's tokens without a copy: (T, H, D) -> (N, H, size, D)."""
    token, head, dim = states.stride()
    shape = (span.runs, states.shape[1], span.size, states.shape[2])
    return states.as_strided(shape, (span.step * token, head, token, dim), states.storage_offset() + span.start * token)


def _join(states: Tensor, spans: tuple[Span, ...]) -> Tensor:
    return view(states, spans[0]) if len(spans) == 1 else torch.cat([view(states, span) for span in spans], dim=2)


def _add(target: Tensor, span: Span, values: Tensor) -> None:
    """Add (N, H, size, D) to the span's tokens, also where its runs overlap."""
    stride = span.size if span.runs == 1 or span.step >= span.size else span.step
    for offset in range(0, span.size, stride):
        # Runs cut to one step's length no longer overlap, so each cut is an ordinary in-place addition.
        cut = Span(span.start + offset, stride, span.runs, span.step)
        view(target, cut).add_(values[:, :, offset : offset + stride])


class _Piece:
    """A part of the plan, applied to tensors."""

    def __init__(self, part: Part, attention: BlockSparseAttention) -> None:
        self.part = part
        self.adds = part.adds
        self.causal = part.causal
        self.queries = part.queries
        self.first_block_bias = math.log1p(attention.plan.config.num_random_blocks)
        self.key_bias = attention.key_bias

    def keys(self, states: Tensor) -> Tensor:
        """(T, H, D) -> (N, H, K, D)."""
        return _join(states, self.part.keys)

    def add_to_keys(self, target: Tensor, gradient: Tensor) -> None:
        sizes = [span.size for span in self.part.keys]
        for span, values in zip(self.part.keys, gradient.split(sizes, dim=2), strict=True):
            _add(target, span, values)

    def bias(self, like: Tensor) -> Tensor | None:
        """Added to the scores: (N or 1, 1, 1, K); None when there is nothing to add."""
        bias = None
        if self.key_bias is not None:
            bias = _join(self.key_bias[:, None, None], self.part.keys).movedim(3, 2).to(like.dtype)
        if self.part.first_block:
            num_keys = sum(span.size for span in self.part.keys)
            bias = like.new_zeros(1, 1, 1, num_keys) if bias is None else bias.clone()
            bias[..., : self.part.first_block] += self.first_block_bias
        return bias


class _RandomPiece:
    """The random blocks of one row, gathered by head."""

    adds = True
    causal = False

    def __init__(self, part: RandomPart, attention: BlockSparseAttention, device: torch.device) -> None:
        size = attention.plan.config.block_size
        self.queries = (part.queries,)
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


def _split(joined: Tensor, spans: tuple[Span, ...]) -> list[tuple[Span, Tensor]]:
    return list(zip(spans, joined.split([span.size for span in spans], dim=2), strict=True))


def _forward(pieces: _Pieces, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """The merged result (T, H, D) and its log-sum-exp (T, H, 1), float32."""
    context = query.new_empty(query.shape)
    lse = query.new_empty((*query.shape[:2], 1), dtype=torch.float32)
    for piece in pieces:
        q, k, v = _join(query, piece.queries), piece.keys(key), piece.keys(value)
        part_context, part_lse = _flash(q, k, v, is_causal=piece.causal, attn_mask=_expanded(piece.bias(q), q, k))
        part_lse = part_lse.unsqueeze(-1)
        for (span, new), (_, new_lse) in zip(
            _split(part_context, piece.queries), _split(part_lse, piece.queries), strict=True
        ):
            old, old_lse = view(context, span), view(lse, span)
            if piece.adds:
                old.lerp_(new, torch.sigmoid(new_lse - old_lse).to(old.dtype))
                torch.logaddexp(old_lse, new_lse, out=old_lse)
            else:
                old.copy_(new)
                old_lse.copy_(new_lse)
    return context, lse


def _expanded(bias: Tensor | None, q: Tensor, k: Tensor) -> Tensor | None:
    """The bias as the fused kernel wants it: (N, H, Q, K), without copying it out."""
    return None if bias is None else bias.expand(q.shape[0], q.shape[1], q.shape[2], k.shape[2])


class _FlashParts(torch.autograd.Function):
    """`_forward` with its gradient. Keeps query, key, value, context and log-sum-exp, and nothing of any part."""

    @staticmethod
    def forward(ctx: Any, pieces: _Pieces, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        context, lse = _forward(pieces, query, key, value)
        ctx.pieces = pieces
        ctx.save_for_backward(query, key, value, context, lse)
        return context

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, context, lse = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        d_query, d_key, d_value = (
            torch.zeros_like(states, memory_format=torch.contiguous_format) for states in (query, key, value)
        )
        for piece in ctx.pieces:
            q, k, v = _join(query, piece.queries), piece.keys(key), piece.keys(value)
            d_q, d_k, d_v = _flash_backward(
                _join(gradient, piece.queries),
                q,
                k,
                v,
                _join(context, piece.queries),
                _join(lse, piece.queries).squeeze(-1).contiguous(),
                0.0,
                piece.causal,
                attn_mask=_expanded(piece.bias(q), q, k),
            )
            for span, part in _split(d_q, piece.queries):
                _add(d_query, span, part)
            piece.add_to_keys(d_key, d_k)
            piece.add_to_keys(d_value, d_v)
        return None, d_query, d_key, d_value


def _written_out(pieces: _Pieces, query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
    """The same by matrix products and softmax, under autograd, on any device, with dropout of the weights."""
    context = torch.zeros_like(query, memory_format=torch.contiguous_format)
    lse = query.new_zeros((*query.shape[:2], 1), dtype=torch.float32)
    for piece in pieces:
        q, k, v = _join(query, piece.queries), piece.keys(key), piece.keys(value)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(2, 3)
        bias = piece.bias(q)
        scores = (scores if bias is None else scores + bias).float()
        if piece.causal:
            later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
            scores = scores.masked_fill(later, -math.inf)
        part_lse = scores.logsumexp(-1, keepdim=True)
        weights = torch.dropout((scores - part_lse).exp().to(q.dtype), dropout, train=dropout > 0)
        part_context = weights @ v
        for (span, new), (_, new_lse) in zip(
            _split(part_context, piece.queries), _split(part_lse, piece.queries), strict=True
        ):
            index = _tokens(span, query.device)
            new, new_lse = new.transpose(1, 2).flatten(0, 1), new_lse.transpose(1, 2).flatten(0, 1)
            if piece.adds:
                old, old_lse = context[index], lse[index]
                new = torch.lerp(old, new, torch.sigmoid(new_lse - old_lse).to(old.dtype))
                new_lse = torch.logaddexp(old_lse, new_lse)
            context, lse = context.index_copy(0, index, new), lse.index_copy(0, index, new_lse)
    return context


def _tokens(span: Span, device: torch.device) -> Tensor:
    """The packed indices of a span's tokens, run after run: (N * size,)."""
    runs = span.start + torch.arange(span.runs, device=device) * span.step
    return (runs[:, None] + torch.arange(span.size, device=device)).flatten()
