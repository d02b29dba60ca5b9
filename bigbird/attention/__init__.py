"""Attention: one seam, several implementations that are tested equal.

An implementation is made for one batch and then called once a layer:

    context = attend(layer, query, key, value)      # each (T, num_heads, head_dim), T packed tokens

`plan` says which keys each query reads; `reference` computes it densely, `block_sparse` in linear time and memory,
`flex` on CUDA, by the `tiles` it reads; `cached` is the decoder's causal attention against a KV cache.
"""

from typing import Protocol

from torch import Tensor


class Attention(Protocol):
    """What a layer of the encoder needs of its attention."""

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor: ...
