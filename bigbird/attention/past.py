"""Attention of the padded decoder interface: a past handed in and out as tensors, and an encoder's states.

Both state their parts on packed axes, as block-sparse attention does. Where a call asks for the probabilities, they
are computed with the full matrix of scores. Serving many sequences at once is `cached`'s work.

Legend: B batch, L new tokens a row, P past length, E encoder length, C hidden size, H heads, D head dim; T packed
tokens of the decoder, which with a past are B * L.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from bigbird.attention import Attention
from bigbird.attention.growing import GrowingPast, buffers_for, self_attention
from bigbird.attention.partial import attend
from bigbird.attention.parts import Piece, SpanPiece, attend_parts, mask_bias
from bigbird.attention.plan import Span
from bigbird.attention.reference import MASKED
from bigbird.config import BigBirdConfig
from bigbird.errors import InputError
from bigbird.outputs import PastKeyValues
from bigbird.packing import Packing


def heads_first(states: Tensor, batch: int) -> Tensor:
    """(B * L, H, D) -> (B, H, L, D)."""
    return states.view(batch, -1, *states.shape[1:]).transpose(1, 2)


def _tokens_first(states: Tensor) -> Tensor:
    """(B, H, L, D) -> (B * L, H, D)."""
    return states.transpose(1, 2).flatten(0, 1)


def _probabilities(query: Tensor, key: Tensor, attended: Tensor, later: Tensor | None = None) -> Tensor:
    """query (B, H, L, D), key (B, H, K, D), attended (B, K), later (L, K), both bool -> (B, H, L, K)."""
    scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5
    bias = scores.new_zeros(attended.shape).masked_fill(~attended, MASKED)[:, None, None]
    probabilities: Tensor = (scores + (bias if later is None else bias.masked_fill(later, -torch.inf))).softmax(-1)
    return probabilities


def _weighted(probabilities: Tensor, value: Tensor, dropout: float) -> Tensor:
    """(B, H, L, K) and (B, H, K, D) -> (B, L, H, D)."""
    return (torch.dropout(probabilities, dropout, train=dropout > 0) @ value).transpose(1, 2)


class Keeping:
    """An attention that also keeps every layer's keys and values, (T, H, D), for a cache made afterwards."""

    def __init__(self, attend: Attention) -> None:
        self.attend = attend
        self.kept: list[tuple[Tensor, Tensor]] = []

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        self.kept.append((key, value))
        return self.attend(layer, query, key, value)


class PastAttention:
    """Causal attention of B rows of L new tokens each over the past and themselves.

    past: a layer's tuple begins with key and value, (B, H, P, D). attention_mask: (B, P + L), 1 = attend.
    record: compute densely, and keep the probabilities.
    """

    def __init__(
        self, past: PastKeyValues, attention_mask: Tensor, *, dropout: float = 0.0, record: bool = False
    ) -> None:
        self.past = past
        self.attended = attention_mask != 0
        self.dropout = dropout
        self.record = record
        self.present: list[tuple[Tensor, Tensor]] = []
        """Per layer: key and value of past and new tokens, (B, H, P + L, D)."""
        self.probabilities: list[Tensor] = []
        """Per layer, where they are recorded: (B, H, L, P + L)."""
        batch, total = attention_mask.shape
        self._length = length = past[0][0].shape[2]
        # With gradients, states are joined anew; without, new ones are written behind the old.
        self.buffers = None if torch.is_grad_enabled() else buffers_for(past, total - length)
        capacity = total if self.buffers is None else self.buffers.capacity
        readable = self.attended.new_zeros(batch, capacity).slice_scatter(self.attended, 1, 0, total)
        key_bias = mask_bias(None if bool(self.attended.all()) else readable.flatten())
        # A single token reads everything: it needs no parts, which carry the gradients.
        self._is_single = total - length == 1 and self.buffers is not None and not dropout
        self._bias = None if key_bias is None else key_bias.view(batch, 1, 1, capacity)[..., :total]
        new = (Span(0, total - length, batch, total - length),)
        self._pieces: list[Piece] = [
            SpanPiece(new, (Span(0, length, batch, capacity),), key_bias=key_bias),
            SpanPiece(new, (Span(length, total - length, batch, capacity),), causal=True, adds=True, key_bias=key_bias),
        ]
        if total - length == 1:  # it reads everything
            self._pieces = [SpanPiece(new, (Span(0, total, batch, capacity),), key_bias=key_bias)]

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query, key, value: (B * L, H, D) -> context (B * L, H, D)."""
        batch, total = self.attended.shape
        key, value = (states.view(batch, -1, *states.shape[1:]) for states in (key, value))
        past = self.past[layer][:2]
        if self.buffers is None:
            key, value = (
                torch.cat([old.transpose(1, 2), new], dim=1) for old, new in zip(past, (key, value), strict=True)
            )
        else:
            key, value = self.buffers.append(layer, past, key, value, self._length)
        self.present.append((key[:, :total].transpose(1, 2), value[:, :total].transpose(1, 2)))
        if self._is_single and not self.record:
            return _tokens_first(attend(heads_first(query, batch), *self.present[-1], self._bias)[0])
        if not self.record:
            return attend_parts(self._pieces, query, key.flatten(0, 1), value.flatten(0, 1), self.dropout)
        q, (k, v) = heads_first(query, batch), self.present[-1]
        later = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).triu(k.shape[2] - q.shape[2] + 1)
        self.probabilities.append(_probabilities(q, k, self.attended, later))
        return _weighted(self.probabilities[-1], v, self.dropout).flatten(0, 1)


class CrossAttention:
    """Attention of a decoder's packed tokens to an encoder's states, whose keys and values are computed once a layer.

    states: (B, E, C); attention_mask: (B, E), 1 = attend. A token reads its own row's states, up to the last that is
    attended to; where all are masked, its context is zero. `begin` says which tokens the next pass is over.
    known: per layer, keys and values that were computed before, (B, H, E, D).
    """

    def __init__(
        self,
        states: Tensor,
        attention_mask: Tensor,
        *,
        known: dict[int, tuple[Tensor, Tensor]] | None = None,
        dropout: float = 0.0,
        record: Packing | None = None,
    ) -> None:
        self.states = states
        self.dropout = dropout
        self.record = record
        self.present: dict[int, tuple[Tensor, Tensor]] = {}
        """Per layer: keys and values of the encoder's states, (B, H, E, D)."""
        self.probabilities: list[Tensor] = []
        """Per layer, where `record` says how the decoder's rows are packed: (B, H, L, E), zeros where either side is
        masked."""
        self._known = known or {}
        self.attended = attention_mask != 0
        width = states.shape[1]
        places = torch.arange(1, width + 1, device=attention_mask.device)
        ends = (self.attended * places).amax(dim=1)
        self._lengths: list[int] = ends.tolist()
        has_holes = bool((self.attended.sum(1) != ends).any())
        self._key_bias = mask_bias(self.attended.flatten() if has_holes else None)
        self._pieces: list[Piece] = []

    def begin(self, spans: Sequence[tuple[int, int]]) -> None:
        """The next pass is over these: (row of the encoder's states, number of the decoder's tokens), in packed order.

        Keys and values that an earlier pass computed are used again.
        """
        self._known |= self.present
        self._pieces = []
        start, width = 0, self.states.shape[1]
        # Neighbours of the same lengths, whose states lie next to each other, are one part.
        shapes = ((row, count, row - place) for place, (row, count) in enumerate(spans))
        for (count, length, _), same in groupby(shapes, lambda s: (s[1], self._lengths[s[0]], s[2])):
            rows = [row for row, _, _ in same]
            if length:
                queries = Span(start, count, len(rows), count)
                keys = Span(rows[0] * width, length, len(rows), width)
                self._pieces.append(SpanPiece((queries,), (keys,), key_bias=self._key_bias))
            start += count * len(rows)

    def known(self, layer: int) -> tuple[Tensor, Tensor] | None:
        """Keys and values of a layer, (B, H, E, D), if they have been computed before."""
        return self._known.get(layer)

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query (T, H, D), key and value (B, H, E, D) -> context (T, H, D)."""
        self.present[layer] = key, value
        if self.record is None:
            return attend_parts(self._pieces, query, _tokens_first(key), _tokens_first(value), self.dropout)
        rows = self.record
        q = heads_first(rows.unpack(query).flatten(0, 1), rows.shape[0])
        asks = rows.unpack(rows.pack(q.new_ones(rows.shape))) * self.attended.any(1, keepdim=True)
        self.probabilities.append(_probabilities(q, key, self.attended) * asks[:, None, :, None])
        return rows.pack(_weighted(self.probabilities[-1], value, self.dropout))


def present(
    attend: Attention, kept: Keeping, cross: CrossAttention | None, rows: Packing, cache: Any
) -> PastKeyValues | Any:
    """Past and new tokens' keys and values; a cache object of transformers is given the new ones, and is it then."""
    new = [(_padded_heads(key, rows), _padded_heads(value, rows)) for key, value in kept.kept]
    if cache is not None:
        for layer, (key, value) in enumerate(new):
            self_attention(cache).update(key, value, layer)
        return cache
    own = attend.present if isinstance(attend, PastAttention) else new
    layers = [pair if cross is None else pair + cross.present[layer] for layer, pair in enumerate(own)]
    if isinstance(attend, PastAttention) and attend.buffers is not None:
        return GrowingPast(layers, attend.buffers)
    return tuple(layers)


def _padded_heads(states: Tensor, rows: Packing) -> Tensor:
    return heads_first(rows.unpack(states).flatten(0, 1), rows.shape[0])


def check_encoder_states(config: BigBirdConfig, batch: int, states: Tensor | None, mask: Tensor | None) -> None:
    """Raise InputError unless a decoder of this configuration can attend to an encoder's states, one row each of its
    own rows; states: (batch, E, hidden_size), mask: (batch, E)."""
    if states is None:
        if mask is not None:
            raise InputError("encoder_attention_mask needs encoder_hidden_states, got None")
        return
    if not config.add_cross_attention:
        raise InputError("encoder_hidden_states need a decoder made with add_cross_attention=True")
    if states.dim() != 3 or states.shape[::2] != (batch, config.hidden_size) or not states.shape[1]:
        raise InputError(
            f"encoder_hidden_states must be ({batch}, encoder_length, {config.hidden_size}), got {tuple(states.shape)}"
        )
    if mask is not None and mask.shape != states.shape[:2]:
        raise InputError(f"encoder_attention_mask must be {tuple(states.shape[:2])}, got {tuple(mask.shape)}")
