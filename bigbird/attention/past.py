"""Attention of the padded decoder interface: a past handed in and out as tensors, and an encoder's states.

Written out with the full matrix of scores, since a call may ask for the probabilities. Serving many sequences at
once is `cached`'s work.

Legend: B batch, L new tokens a row, P past length, E encoder length, H heads, D head dim; T = B * L.
"""

import torch
from torch import Tensor

from bigbird.attention import Attention
from bigbird.attention.reference import MASKED
from bigbird.outputs import PastKeyValues


def heads_first(states: Tensor, batch: int) -> Tensor:
    """(B * L, H, D) -> (B, H, L, D)."""
    return states.view(batch, -1, *states.shape[1:]).transpose(1, 2)


def written_out_attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, dropout: float
) -> tuple[Tensor, Tensor]:
    """query (B, H, L, D), key and value (B, H, K, D), bias broadcast to (B, H, L, K) -> context, probabilities."""
    scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5 + bias
    probabilities = scores.softmax(-1)
    return torch.dropout(probabilities, dropout, train=dropout > 0) @ value, probabilities


def _mask_bias(attention_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, K) of 1 and 0 -> (B, 1, 1, K) to add to scores."""
    return torch.zeros(attention_mask.shape, dtype=dtype, device=attention_mask.device).masked_fill(
        attention_mask == 0, MASKED
    )[:, None, None]


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
    """

    def __init__(self, past: PastKeyValues, attention_mask: Tensor, *, dropout: float = 0.0) -> None:
        self.past = past
        self.attention_mask = attention_mask
        self.dropout = dropout
        self.present: list[tuple[Tensor, Tensor]] = []
        """Per layer: key and value of past and new tokens, (B, H, P + L, D)."""
        self.probabilities: list[Tensor] = []
        """Per layer: (B, H, L, P + L)."""

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query, key, value: (T, H, D) -> context (T, H, D)."""
        batch = self.attention_mask.shape[0]
        q, k, v = (heads_first(states, batch) for states in (query, key, value))
        k, v = torch.cat([self.past[layer][0], k], dim=2), torch.cat([self.past[layer][1], v], dim=2)
        self.present.append((k, v))
        later = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).triu(k.shape[2] - q.shape[2] + 1)
        bias = _mask_bias(self.attention_mask, q.dtype).masked_fill(later, -torch.inf)
        context, probabilities = written_out_attention(q, k, v, bias, self.dropout)
        self.probabilities.append(probabilities)
        return context.transpose(1, 2).flatten(0, 1)


class CrossAttention:
    """Attention of a decoder's tokens to an encoder's states, whose keys and values are computed once a layer.

    attention_mask: (B, E), 1 = attend. past: where a layer's tuple has four tensors, the last two are the keys and
    values of the encoder's states, (B, H, E, D), and are used as they are.
    """

    def __init__(
        self, encoder_states: Tensor, attention_mask: Tensor, past: PastKeyValues | None, *, dropout: float = 0.0
    ) -> None:
        self.encoder_states = encoder_states
        self.attention_mask = attention_mask
        self.past = past
        self.dropout = dropout
        self.present: list[tuple[Tensor, Tensor]] = []
        self.probabilities: list[Tensor] = []
        """Per layer: (B, H, L, E)."""

    def known(self, layer: int) -> tuple[Tensor, Tensor] | None:
        """Keys and values that an earlier call computed, if the past holds them."""
        if self.past is None or len(self.past[layer]) != 4:
            return None
        return self.past[layer][2], self.past[layer][3]

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query (T, H, D), key and value (B, H, E, D) -> context (T, H, D)."""
        self.present.append((key, value))
        q = heads_first(query, self.attention_mask.shape[0])
        bias = _mask_bias(self.attention_mask, q.dtype)
        context, probabilities = written_out_attention(q, key, value, bias, self.dropout)
        self.probabilities.append(probabilities)
        return context.transpose(1, 2).flatten(0, 1)
