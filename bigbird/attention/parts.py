"""Attention stated as parts: these tokens of a packed axis read those. Computed one part after another, and merged.

Time and memory are linear in what is read: no part is kept for the backward pass, which computes each anew from the
merged result and its log-sum-exp. Windows are strided views with overlapping rows, so no key is copied for them.

Knows neither plans nor masks. Legend: T packed tokens, H heads, N runs of a span, Q queries, K keys, D head dim.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bigbird.attention.partial import attend, attend_backward, lse_dtype, merge_
from bigbird.attention.plan import Span
from bigbird.attention.reference import MASKED
from bigbird.dropout import Drops


class Piece(Protocol):
    """One part, applied to tensors. In a sequence of pieces, what adds comes after what it adds to."""

    queries: tuple[Span, ...]
    causal: bool
    adds: bool

    def keys(self, states: Tensor) -> Tensor:
        """(T, H, D) -> (N, H, K, D)."""
        ...

    def add_to_keys(self, target: Tensor, gradient: Tensor) -> None:
        """Add (N, H, K, D) to (T, H, D), the other way round."""
        ...

    def bias(self, like: Tensor) -> Tensor | None:
        """Added to the scores, broadcast to (N, H, Q, K)."""
        ...


class SpanPiece:
    """Spans of queries that read spans of keys.

    key_bias: (T of the keys,), added to a key's scores. first, first_bias: so many leading keys get so much more.
    """

    def __init__(
        self,
        queries: tuple[Span, ...],
        keys: tuple[Span, ...],
        *,
        causal: bool = False,
        adds: bool = False,
        key_bias: Tensor | None = None,
        first: int = 0,
        first_bias: float = 0.0,
    ) -> None:
        self.queries = queries
        self.causal = causal
        self.adds = adds
        self._keys = keys
        self._bias = None if key_bias is None else join(key_bias[:, None, None], keys).movedim(3, 2)
        self._first = first
        self._first_bias = first_bias

    def keys(self, states: Tensor) -> Tensor:
        return join(states, self._keys)

    def add_to_keys(self, target: Tensor, gradient: Tensor) -> None:
        for span, values in _split(gradient, self._keys):
            _add(target, span, values)

    def bias(self, like: Tensor) -> Tensor | None:
        bias = None if self._bias is None else self._bias.to(like.dtype)
        if self._first:
            num_keys = sum(span.size for span in self._keys)
            bias = like.new_zeros(1, 1, 1, num_keys) if bias is None else bias.clone()
            bias[..., : self._first] += self._first_bias
        return bias


def mask_bias(attended: Tensor | None) -> Tensor | None:
    """Bool, True where a key may be read -> what to add to its scores, float32."""
    if attended is None:
        return None
    return torch.zeros(attended.shape, device=attended.device).masked_fill_(~attended, MASKED)


def view(states: Tensor, span: Span) -> Tensor:
    """The span's tokens without a copy: (T, H, D) -> (N, H, size, D)."""
    token, head, dim = states.stride()
    shape = (span.runs, states.shape[1], span.size, states.shape[2])
    return states.as_strided(shape, (span.step * token, head, token, dim), states.storage_offset() + span.start * token)


def join(states: Tensor, spans: tuple[Span, ...]) -> Tensor:
    """(T, H, D) -> (N, H, sum of sizes, D), a view where there is one span."""
    return view(states, spans[0]) if len(spans) == 1 else torch.cat([view(states, span) for span in spans], dim=2)


def attend_parts(pieces: Sequence[Piece], query: Tensor, key: Tensor, value: Tensor, dropout: float = 0.0) -> Tensor:
    """query (T, H, D), key and value (T of the keys, H, D) -> context (T, H, D), zeros where no piece has the query.

    dropout: probability with which an attention weight is dropped. Differentiable once.
    """
    seed = int(torch.randint(2**62, ())) if dropout else 0
    if torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad):
        context: Tensor = _Parts.apply(pieces, dropout, seed, query, key, value)  # type: ignore[no-untyped-call]
        return context
    return _forward(pieces, dropout, seed, query, key, value)[0]


def _forward(
    pieces: Sequence[Piece], dropout: float, seed: int, query: Tensor, key: Tensor, value: Tensor
) -> tuple[Tensor, Tensor]:
    """The merged result (T, H, D) and its log-sum-exp (T, H, 1)."""
    drops = Drops(dropout, torch.Generator(query.device).manual_seed(seed)) if dropout else None
    num_written = sum(span.runs * span.size for piece in pieces if not piece.adds for span in piece.queries)
    context = (query.new_empty if num_written == len(query) else query.new_zeros)(query.shape)
    lse = query.new_empty((*query.shape[:2], 1), dtype=lse_dtype(query.dtype))
    for piece in pieces:
        q = join(query, piece.queries)
        part, part_lse = attend(
            q, piece.keys(key), piece.keys(value), piece.bias(q), causal=piece.causal, dropout=drops
        )
        for (span, new), (_, new_lse) in zip(_split(part, piece.queries), _split(part_lse, piece.queries), strict=True):
            old, old_lse = view(context, span), view(lse, span)
            if piece.adds:
                merge_(old, old_lse, new, new_lse)
            else:
                old.copy_(new)
                old_lse.copy_(new_lse)
    return context, lse


class _Parts(torch.autograd.Function):
    """`_forward` with its gradient. Keeps query, key, value, context and log-sum-exp, and nothing of any part."""

    @staticmethod
    def forward(
        ctx: Any, pieces: Sequence[Piece], dropout: float, seed: int, query: Tensor, key: Tensor, value: Tensor
    ) -> Tensor:
        context, lse = _forward(pieces, dropout, seed, query, key, value)
        ctx.pieces, ctx.dropout, ctx.seed = pieces, dropout, seed
        ctx.save_for_backward(query, key, value, context, lse)
        return context

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, context, lse = ctx.saved_tensors
        gradient = gradient.contiguous()
        drops = Drops(ctx.dropout, torch.Generator(query.device).manual_seed(ctx.seed)) if ctx.dropout else None
        d_query, d_key, d_value = (
            torch.zeros_like(states, memory_format=torch.contiguous_format) for states in (query, key, value)
        )
        for piece in ctx.pieces:
            q = join(query, piece.queries)
            d_q, d_k, d_v = attend_backward(
                join(gradient, piece.queries),
                q,
                piece.keys(key),
                piece.keys(value),
                piece.bias(q),
                join(context, piece.queries),
                join(lse, piece.queries),
                causal=piece.causal,
                dropout=drops,
            )
            for span, part in _split(d_q, piece.queries):
                _add(d_query, span, part)
            piece.add_to_keys(d_key, d_k)
            piece.add_to_keys(d_value, d_v)
        return None, None, None, d_query, d_key, d_value


def _split(joined: Tensor, spans: tuple[Span, ...]) -> list[tuple[Span, Tensor]]:
    return list(zip(spans, joined.split([span.size for span in spans], dim=2), strict=True))


def _add(target: Tensor, span: Span, values: Tensor) -> None:
    """Add (N, H, size, D) to the span's tokens, also where its runs overlap."""
    stride = span.size if span.runs == 1 or span.step >= span.size else span.step
    for offset in range(0, span.size, stride):
        # Runs cut to one step's length no longer overlap, so each cut is an ordinary in-place addition.
        cut = Span(span.start + offset, stride, span.runs, span.step)
        view(target, cut).add_(values[:, :, offset : offset + stride])
