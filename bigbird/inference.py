"""Prepare a loaded model to run fast: fused products, packed weights, fused activations.

On CUDA attention and what follows it are compiled, each as one graph for all layers and any number of tokens.
Everything here is made from a loaded module and has its call signature. No training.
"""

import copy
import logging
from collections.abc import Callable
from functools import lru_cache
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from bigbird.attention import Attention
from bigbird.attention.flex import FlexAttention
from bigbird.attention.past import CrossAttention
from bigbird.compiled import call_compiled, refuse_uncompiled
from bigbird.config import BigBirdConfig
from bigbird.errors import ConfigError
from bigbird.head_layers import LanguageModelHead
from bigbird.layers import ACTIVATIONS, Layer
from bigbird.linear.memory import keep_freed_memory
from bigbird.linear.packed import GELU, Int8Linear, PackedLinear, can_pack, prefers_bfloat16
from bigbird.loading.pretrained import PretrainedModel
from bigbird.model import BigBirdModel

logger = logging.getLogger(__name__)

Precision = Literal["float32", "bfloat16", "float16", "int8", "auto"]
_Model = TypeVar("_Model", bound=PretrainedModel)


def prepare_for_inference(
    model: _Model, dtype: Precision | torch.dtype | None = None, *, encoder: BigBirdModel | None = None
) -> _Model:
    """A copy of `model` that runs fast, in evaluation mode and without gradients; `model` stays as it is.

    Same class, same call signature; in float32 the results differ by rounding only (1e-4 at unit scale). It shares
    nothing with `model`, copies and pickles, and refuses to train, to be differentiated, moved or converted. On a CPU
    the process keeps the memory it frees from then on (`bigbird.linear.memory`).

    dtype: "float32", on CUDA in TF32 where torch.set_float32_matmul_precision allows it; "bfloat16"; "float16" (not on
    CPU); "int8", which keeps float32 outside the layers' products and a decoder's last one (CPU only); "auto",
    bfloat16 where this machine multiplies it faster, else float32; None, the model's own.
    encoder: a prepared model whose embeddings and layers take the place of the copy's own, to be held in memory once.
    They must be equal (`bigbird.checkpoint.encoder_digest`), which is not looked at here.
    Raises ConfigError for another dtype, or one that this device or machine has no products for.
    """
    on_cpu = model.device.type == "cpu"
    if on_cpu:
        keep_freed_memory()  # before the first product, which the choice of a precision makes
    if dtype == "auto":
        precision = "bfloat16" if prefers_bfloat16(model.device.type) else "float32"
    else:
        precision = str(model.dtype if dtype is None else dtype).removeprefix("torch.")
    if precision not in ("float32", "bfloat16", "float16", "int8"):
        own = ", which is the model's own" if dtype is None else ""
        raise ConfigError(f"dtype must be one of {', '.join(get_args(Precision))}, got {precision!r}{own}")
    if precision == "float16" and on_cpu:
        raise ConfigError("dtype float16 is for GPUs, and this model is on the CPU; bfloat16 is as small")
    if precision == "int8" and not (on_cpu and can_pack(torch.int8)):
        raise ConfigError(f"dtype int8 needs oneDNN's 8-bit products, which are missing on this {model.device.type}")
    weights: torch.dtype = torch.float32 if precision == "int8" else getattr(torch, precision)
    if on_cpu and weights == torch.bfloat16 and not can_pack(torch.bfloat16):
        logger.warning("this CPU has no bfloat16 matrix products; float32 is faster here")

    bert = model.base_model
    assert isinstance(bert, BigBirdModel)
    layers = _layers(bert)
    # Layers are made anew below, or shared: they are not copied here.
    left_out: dict[int, nn.Module] = {id(bert.encoder.layer): nn.ModuleList()}
    if encoder is not None:
        left_out[id(bert.embeddings)] = nn.Module()
    fast = copy.deepcopy(model, left_out).to(weights)
    fast_bert = fast.base_model
    assert isinstance(fast_bert, BigBirdModel)
    make = _Maker(model.config, precision, weights, model.device.type)
    if encoder is None:
        fast_bert.encoder.layer = nn.ModuleList(FusedLayer(layer, make) for layer in layers)
    else:
        fast_bert.embeddings, fast_bert.encoder = encoder.embeddings, encoder.encoder
    if model.device.type == "cuda" and model.config.random_attention == "collapsed":
        fast_bert.attention = FlexAttention
    head = getattr(fast, "cls", None)
    if isinstance(head, LanguageModelHead):
        _speed_up(head, make)
    fast.eval().requires_grad_(False)
    fast.precision = fast_bert.precision = precision
    return fast


def _layers(bert: BigBirdModel) -> list[Layer]:
    layers = list(bert.encoder.layer)
    if not all(isinstance(layer, Layer) for layer in layers):
        raise ConfigError("this model is prepared for inference already; prepare the loaded one")
    return [layer for layer in layers if isinstance(layer, Layer)]


class _Maker:
    """Makes the linear layers of a prepared model."""

    def __init__(self, config: BigBirdConfig, precision: str, dtype: torch.dtype, device_type: str) -> None:
        self.config = config
        self.precision = precision
        self.dtype = dtype
        self.device_type = device_type
        self.packs = device_type == "cpu" and can_pack(dtype)
        # A decoder spends its time on a few rows a step, an encoder on thousands.
        self.num_rows = 16 if config.is_decoder else 4096

    def linear(self, linear: nn.Linear, activation: str | None = None, *, precise: bool = False) -> nn.Module:
        """`activation(linear(x))`. precise: not in int8, whatever was asked for."""
        if self.precision == "int8" and not precise:
            return _then(Int8Linear(linear), activation)
        converted = copy.deepcopy(linear).to(self.dtype)
        if self.packs and (activation is None or activation in GELU):
            decodes = self.config.is_decoder
            return PackedLinear(converted, num_rows=self.num_rows, activation=activation, decodes=decodes)
        return _then(converted, activation)

    def projections(self, linears: list[nn.Linear]) -> nn.ModuleList:
        """One product for all of these, or on a CPU, of many rows, one for each: no slower, and attention reads states
        that lie together. Their memory is a third as large, so that threads keep it (`bigbird.linear.memory`)."""
        apart = self.device_type == "cpu" and self.precision != "int8" and not self.config.is_decoder
        return nn.ModuleList(map(self.linear, linears if apart else [_joined(linears)]))


class _Activated(nn.Module):
    def __init__(self, linear: nn.Module, activation: str) -> None:
        super().__init__()
        self.linear = linear
        self.activation = ACTIVATIONS[activation]

    def forward(self, states: Tensor) -> Tensor:
        return self.activation(self.linear(states))


def _then(linear: nn.Module, activation: str | None) -> nn.Module:
    return linear if activation is None else _Activated(linear, activation)


# Tokens that one thread takes through the end of a layer at once on a CPU: their widened states stay in its cache,
# and a long batch needs no memory for the widened states of all its tokens.
TOKENS_A_THREAD = 256


class FusedLayer(nn.Module):
    """A `Layer` with fused products, additions in place, and its end done piece by piece."""

    def __init__(self, layer: Layer, make: _Maker) -> None:
        super().__init__()
        attention = layer.attention
        self.num_heads = attention.self.num_heads
        self.projections = make.projections([attention.self.query, attention.self.key, attention.self.value])
        self.attention_output = make.linear(attention.output.dense)
        self.attention_norm = copy.deepcopy(attention.output.LayerNorm).to(make.dtype)
        cross = getattr(layer, "crossattention", None)
        self.crossattention = None if cross is None else copy.deepcopy(cross).to(make.dtype)
        self.intermediate = make.linear(layer.intermediate.dense, make.config.hidden_act)
        self.output = make.linear(layer.output.dense)
        self.output_norm = copy.deepcopy(layer.output.LayerNorm).to(make.dtype)
        self.by_pieces = make.device_type == "cpu" and self.crossattention is None
        self.compiles = make.device_type == "cuda" and self.crossattention is None

    def forward(
        self, hidden: Tensor, layer: int, attend: Attention, cross: CrossAttention | None, scale: Tensor | None
    ) -> Tensor:
        """(T, C) -> (T, C), as `Layer`."""
        if hidden.requires_grad and torch.is_grad_enabled():
            raise ConfigError("a model prepared for inference has no gradients; differentiate the loaded one")
        states = [projection(hidden) for projection in self.projections]
        parts = states[0].chunk(3, dim=-1) if len(states) == 1 else states
        query, key, value = (part.unflatten(-1, (self.num_heads, -1)) for part in parts)
        context = attend(layer, query, key, value)
        del states, parts, query, key, value  # the largest states there are: their memory goes before more is taken
        if scale is not None:
            context = context * scale
        context = context.flatten(1)
        if self.compiles:
            return call_compiled(_compiled_finish(), self, context, hidden)
        size = TOKENS_A_THREAD * torch.get_num_threads()
        if not self.by_pieces or len(hidden) <= size:
            return self._finish(context, hidden, layer, cross, scale)
        for attended, before in zip(context.split(size), hidden.split(size), strict=True):
            attended.copy_(self._finish(attended, before, layer, cross, scale))
        return context

    def _finish(
        self, context: Tensor, hidden: Tensor, layer: int, cross: CrossAttention | None, scale: Tensor | None
    ) -> Tensor:
        """What follows attention; without cross-attention, each token by itself."""
        hidden = self.attention_norm(self.attention_output(context).add_(hidden))
        if cross is not None and self.crossattention is not None:
            hidden = self.crossattention.cross(hidden, layer, cross, scale)
        finished: Tensor = self.output_norm(self.output(self.intermediate(hidden)).add_(hidden))
        return finished


@lru_cache
def _compiled_finish() -> Callable[..., Tensor]:
    """`FusedLayer._finish` as one graph: called as (layer, context, hidden), for any layer and number of tokens."""

    def finish(layer: FusedLayer, context: Tensor, hidden: Tensor) -> Tensor:
        refuse_uncompiled("a layer on CUDA")
        return layer._finish(context, hidden, 0, None, None)

    return torch.compile(finish, dynamic=True, fullgraph=True)


def _joined(linears: list[nn.Linear]) -> nn.Linear:
    """One layer whose outputs are those of several, one after another."""
    joined = nn.Linear(linears[0].in_features, sum(linear.out_features for linear in linears), bias=False)
    joined.weight = nn.Parameter(torch.cat([linear.weight.detach() for linear in linears]))
    if linears[0].bias is not None:
        joined.bias = nn.Parameter(torch.cat([linear.bias.detach() for linear in linears]))
    return joined


class FastPredictions(nn.Module):
    """`Predictions` with packed weights: called as it is."""

    def __init__(self, head: LanguageModelHead, make: _Maker) -> None:
        super().__init__()
        predictions = head.predictions
        # Differences of log-probabilities are what a masked language model is asked for: its products stay precise. In
        # a decoder they are a third of what a step reads, and cost a thousandth of the perplexity.
        precise = not make.config.is_decoder
        self.transform = make.linear(predictions.transform.dense, make.config.hidden_act, precise=precise)
        self.norm = predictions.transform.LayerNorm
        decoder = nn.Linear(1, 1)
        decoder.weight, decoder.bias = predictions.decoder.weight, predictions.bias
        decoder.out_features = predictions.bias.shape[0]
        self.decoder = make.linear(decoder, precise=precise)

    def forward(self, states: Tensor) -> Tensor:
        """(..., hidden_size) -> (..., vocab_size)."""
        logits: Tensor = self.decoder(self.norm(self.transform(states)))
        return logits


def _speed_up(head: LanguageModelHead, make: _Maker) -> None:
    if make.packs:
        head.predictions = FastPredictions(head, make)  # type: ignore[assignment]
