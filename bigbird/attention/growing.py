"""A past that the next call appends to in place, behind the documented tuple; and transformers' caches read as one.

Legend: B batch, P past length, L new tokens a row, H heads, D head dim.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from bigbird.outputs import PastKeyValues

_ROOM = 64
"""Tokens that a buffer has room for at least behind those it holds; beside long pasts it is half as many again."""


class Buffers:
    """Keys and values of every layer, (B, capacity, H, D), of which the first `length` tokens are written.

    Whoever goes on from the newest past writes behind it; from an older one, into buffers of its own.
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self.capacity = max(length + _ROOM, length * 3 // 2)
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    def append(
        self, layer: int, past: tuple[Tensor, ...], key: Tensor, value: Tensor, length: int
    ) -> tuple[Tensor, Tensor]:
        """Write new tokens, (B, L, H, D), behind the first `length`, which come from past, (B, H, P, D), where the
        buffer is new; returns the buffers."""
        if layer not in self.layers:
            batch, _, heads, dim = key.shape
            with torch.inference_mode(False):  # ordinary tensors, which may be written to inside that mode and outside
                self.layers[layer] = (
                    key.new_empty(batch, self.capacity, heads, dim),
                    key.new_empty(batch, self.capacity, heads, dim),
                )
            for buffer, old in zip(self.layers[layer], past, strict=False):
                buffer[:, :length] = old.transpose(1, 2)
        for buffer, new in zip(self.layers[layer], (key, value), strict=True):
            buffer.narrow(1, length, new.shape[1]).copy_(new)
        return self.layers[layer]


class GrowingPast(tuple[tuple[Tensor, ...], ...]):
    """past_key_values: the documented tuple, whose tensors are the beginnings of buffers with room."""

    buffers: Buffers

    def __new__(cls, layers: Iterable[tuple[Tensor, ...]], buffers: Buffers) -> "GrowingPast":
        made = super().__new__(cls, layers)
        made.buffers = buffers
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles are plain tuples of tensors without room."""
        return tuple, (tuple(tuple(tensor.clone() for tensor in layer) for layer in self),)


def buffers_for(past: PastKeyValues, num_new: int) -> Buffers:
    """Where a call with so many new tokens writes: the past's own buffers if nothing was written behind it and they
    have room, else new ones."""
    length = past[0][0].shape[2]
    if isinstance(past, GrowingPast):
        buffers = past.buffers
        if buffers.length == length and length + num_new <= buffers.capacity:
            buffers.length += num_new
            return buffers
    return Buffers(length + num_new)


def is_cache(past: Any) -> bool:
    """Whether it is a cache object of transformers, which a call reads and updates."""
    return past is not None and hasattr(self_attention(past), "update")


def self_attention(cache: Any) -> Any:
    """The part of a cache that holds self-attention's keys and values."""
    return getattr(cache, "self_attention_cache", cache)


def past_of(cache: Any) -> PastKeyValues | None:
    """What a cache object of transformers holds, as the documented tuple; None while it is empty."""
    own = self_attention(cache)
    if not own.get_seq_length():
        return None
    if hasattr(own, "layers"):
        return tuple((layer.keys, layer.values) for layer in own.layers)
    return tuple(zip(own.key_cache, own.value_cache, strict=True))
