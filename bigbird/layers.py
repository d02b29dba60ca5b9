"""The encoder's parts on a flat token axis. Module names are the checkpoint's names.

Knows nothing of rows, padding or masks: whoever calls hands in an attention that does.

Legend: T tokens, C hidden_size, H heads, D head dim.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from bigbird.attention import Attention
from bigbird.attention.past import CrossAttention, heads_first
from bigbird.config import BigBirdConfig
from bigbird.dropout import Dropout
from bigbird.errors import InputError
from bigbird.linear.training import Linear


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {  # functions with a name, so that models can be pickled
    "gelu": F.gelu,
    "gelu_new": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
}

CHECKPOINT_ARGUMENTS = {"use_reentrant", "preserve_rng_state", "determinism_check", "debug", "context_fn"}
"""Arguments of torch.utils.checkpoint.checkpoint that gradient checkpointing passes on."""


class Embeddings(nn.Module):
    """Word, position and token type embeddings, summed; dropout comes before the norm, as in the original."""

    def __init__(self, config: BigBirdConfig) -> None:
        super().__init__()
        padding = config.pad_token_id
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=padding)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)
        self.scale = config.hidden_size**0.5 if config.rescale_embeddings else 1.0

    def forward(
        self,
        input_ids: Tensor | None,
        token_type_ids: Tensor,
        position_ids: Tensor,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """input_ids, token_type_ids, position_ids: (T,); or inputs_embeds: (T, C) instead of ids -> (T, C)."""
        words = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        summed = (
            words * self.scale + self.token_type_embeddings(token_type_ids) + self.position_embeddings(position_ids)
        )
        normed: Tensor = self.LayerNorm(self.dropout(summed))
        return normed


class SelfAttention(nn.Module):
    """The projections to query, key and value."""

    def __init__(self, config: BigBirdConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.query = Linear(config.hidden_size, config.hidden_size, bias=config.use_bias)
        self.key = Linear(config.hidden_size, config.hidden_size, bias=config.use_bias)
        self.value = Linear(config.hidden_size, config.hidden_size, bias=config.use_bias)

    def heads(self, states: Tensor) -> Tensor:
        """(T, C) -> (T, H, D)."""
        return states.view(*states.shape[:-1], self.num_heads, -1)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(T, C) -> query, key, value, each (T, H, D)."""
        return self.heads(self.query(hidden)), self.heads(self.key(hidden)), self.heads(self.value(hidden))


class ResidualOutput(nn.Module):
    """A projection back to the hidden size, dropout, the residual, a norm."""

    def __init__(self, in_features: int, config: BigBirdConfig) -> None:
        super().__init__()
        self.dense = Linear(in_features, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, states: Tensor, residual: Tensor) -> Tensor:
        normed: Tensor = self.LayerNorm(self.dropout(self.dense(states)) + residual)
        return normed


class AttentionBlock(nn.Module):
    """Attention and its output projection; `scale` multiplies each head's context, (H, 1), as a head mask does."""

    def __init__(self, config: BigBirdConfig) -> None:
        super().__init__()
        self.self = SelfAttention(config)
        self.output = ResidualOutput(config.hidden_size, config)

    def forward(self, hidden: Tensor, layer: int, attend: Attention, scale: Tensor | None) -> Tensor:
        context = attend(layer, *self.self(hidden))
        return self._finish(context, hidden, scale)

    def cross(self, hidden: Tensor, layer: int, attend: CrossAttention, scale: Tensor | None) -> Tensor:
        """Attend from (T, C) to the encoder states that `attend` carries."""
        known = attend.known(layer)
        if known is None:
            states = attend.states.flatten(0, 1).to(self.self.key.weight.dtype)  # the encoder's own may be another
            batch = attend.states.shape[0]
            key, value = self.self.key(states), self.self.value(states)
            known = heads_first(self.self.heads(key), batch), heads_first(self.self.heads(value), batch)
        context = attend(layer, self.self.heads(self.self.query(hidden)), *known)
        return self._finish(context, hidden, scale)

    def _finish(self, context: Tensor, hidden: Tensor, scale: Tensor | None) -> Tensor:
        finished: Tensor = self.output((context if scale is None else context * scale).flatten(1), hidden)
        return finished


class Intermediate(nn.Module):
    """The widening projection and its activation."""

    def __init__(self, config: BigBirdConfig) -> None:
        super().__init__()
        self.dense = Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, hidden: Tensor) -> Tensor:
        return self.activation(self.dense(hidden))


class Layer(nn.Module):
    """One layer: self-attention, for some decoders cross-attention, and the feed-forward network."""

    def __init__(self, config: BigBirdConfig) -> None:
        super().__init__()
        self.attention = AttentionBlock(config)
        if config.add_cross_attention:
            self.crossattention = AttentionBlock(config)
        self.intermediate = Intermediate(config)
        self.output = ResidualOutput(config.intermediate_size, config)

    def forward(
        self, hidden: Tensor, layer: int, attend: Attention, cross: CrossAttention | None, scale: Tensor | None
    ) -> Tensor:
        """(T, C) -> (T, C)."""
        hidden = self.attention(hidden, layer, attend, scale)
        if cross is not None:
            hidden = self.crossattention.cross(hidden, layer, cross, scale)
        finished: Tensor = self.output(self.intermediate(hidden), hidden)
        return finished


class Encoder(nn.Module):
    """The stack of layers. `checkpointing`: arguments of torch's checkpoint, with which training recomputes each layer
    in the backward pass to save memory, or every `checkpoint_every`-th; None keeps all states."""

    def __init__(self, config: BigBirdConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.checkpointing: dict[str, Any] | None = None
        self.checkpoint_every = 1

    def forward(
        self,
        hidden: Tensor,
        attend: Attention,
        *,
        cross: CrossAttention | None = None,
        head_mask: Tensor | None = None,
        collect: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """hidden: (T, C) -> (T, C).

        head_mask: (num_layers, H), multiplies each head's context. collect: called with every layer's input and the
        last layer's output, each (T, C), and returns what to go on with.
        """
        for index, layer in enumerate(self.layer):
            if collect is not None:
                hidden = collect(hidden)
            scale = None if head_mask is None else head_mask[index][:, None]
            if self.checkpointing is not None and self.training and index % self.checkpoint_every == 0:
                if self.checkpointing["use_reentrant"] and cross is not None:
                    raise InputError("use_reentrant=True loses the gradients of encoder_hidden_states; use False")
                hidden = checkpoint(layer, hidden, index, attend, cross, scale, **self.checkpointing)
            else:
                hidden = layer(hidden, index, attend, cross, scale)
        return hidden if collect is None else collect(hidden)
