"""Linear layers whose weights are laid out for the CPU's matrix kernels beforehand.

oneDNN's packed products are not public operators of torch: `can_pack` tries each once, and where one is missing or
refuses the type (an older CPU, a build without oneDNN, CUDA) callers keep `nn.Linear`.
"""

import time
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bigbird.linear.memory import on_large_pages
from bigbird.linear.undrawn import Undrawn

GELU = {"gelu": "none", "gelu_new": "tanh", "gelu_fast": "tanh", "gelu_pytorch_tanh": "tanh"}
"""Activations that the packed product applies itself, and the name that torch and oneDNN have for each."""


@lru_cache
def fuses_gelu() -> bool:
    """Whether oneDNN applies gelu at little cost: with AVX-512 it adds a tenth to a product, with AVX2 a third."""
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def gelu_(states: Tensor, approximate: str) -> Tensor:
    """gelu in place. The tanh form is written as x * sigmoid(2 * sqrt(2 / pi) * (x + 0.044715 * x^3)), which is the
    same function at half the time of torch's own, whose tanh is slow."""
    if approximate == "none" or states.dtype != torch.float32:
        activated: Tensor = torch.ops.aten.gelu_(states, approximate=approximate)
        return activated
    scale = 2 * (2 / torch.pi) ** 0.5
    gate = (states * states).mul_(0.044715 * scale).add_(scale).mul_(states).sigmoid_()
    return states.mul_(gate)


@lru_cache
@torch.no_grad()
def can_pack(dtype: torch.dtype) -> bool:
    """Whether packed products of this type run here and agree with `nn.Linear`; int8 means `Int8Linear`.

    Draws no random number and keeps nothing for a backward pass: the first step of a training asks, whose dropout is
    that of its seed and whose layers may be computed twice.
    """
    features = torch.linspace(-1, 1, 64).to(torch.float32 if dtype == torch.int8 else dtype)
    with Undrawn():
        linear = nn.Linear(64, 32, dtype=features.dtype)
    linear.weight.copy_(torch.arange(64.0 * 32).square().sin().view(32, 64) / 4)
    linear.bias.zero_()
    rows = features.repeat(4, 1)
    try:
        packed = Int8Linear(linear) if dtype == torch.int8 else PackedLinear(linear, num_rows=4)
        error = (packed(rows) - linear(rows)).abs().max()
    except (AttributeError, RuntimeError):
        return False
    return bool(error < 0.1)


@lru_cache
@torch.no_grad()
def prefers_bfloat16(device_type: str) -> bool:
    """Whether this machine multiplies bfloat16 clearly faster than float32, by a probe of some milliseconds."""
    if device_type != "cpu":
        return device_type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if not can_pack(torch.bfloat16):
        return False
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        with Undrawn():
            linear = nn.Linear(768, 768, dtype=dtype)
        linear.weight.fill_(0.01)
        linear.bias.zero_()
        rows = torch.full((512, 768), 0.01, dtype=dtype)
        product = PackedLinear(linear, num_rows=512) if can_pack(dtype) else linear
        times = []
        for _ in range(6):
            began = time.perf_counter()
            product(rows)
            times.append(time.perf_counter() - began)
        seconds[dtype] = min(times)
    return seconds[torch.bfloat16] < 0.75 * seconds[torch.float32]


class _LaidOut(nn.Module):
    """A module whose `weight` is laid out for the CPU's kernels, and plain wherever it leaves: in copies, pickles and
    state dicts, which lay it out again."""

    weight: Tensor

    def lay_out(self, plain: Tensor) -> Tensor:
        raise NotImplementedError

    def plain(self) -> Tensor:
        """The weight, (out_features, in_features)."""
        return self.weight.to_dense()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "weight": self.plain()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.weight = self.lay_out(self.weight)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = self.plain()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        others = dict(state_dict)
        plain, mine = others.pop(prefix + "weight", None), self.plain()
        super()._load_from_state_dict(others, prefix, *arguments)
        _, _, missing, _, errors = arguments
        if plain is None:
            missing.append(prefix + "weight")
        elif plain.shape != mine.shape:
            errors.append(f"{prefix}weight: expected {tuple(mine.shape)}, got {tuple(plain.shape)}")
        else:
            self.weight = self.lay_out(plain.detach().to(mine.dtype))


_PROBED_BYTES = 24 * 2**20
"""Of weights that a probe reads: more than caches keep, as in decoding, where every step reads every weight anew."""


@lru_cache
@torch.no_grad()
def plain_rows(dtype: torch.dtype, out_features: int, in_features: int) -> int:
    """Up to how many rows, 1 or 2, the plain product of this shape takes at most 0.95 of the packed one's time
    here; 0 where it never does. A probe of some tenths of a second; a weight that a cache keeps is not asked for."""
    size = in_features * torch.finfo(dtype).bits // 8
    if out_features * size < 2**20:
        return 0
    out_features = min(out_features, _PROBED_BYTES // size)
    shape = out_features, in_features
    plain = [on_large_pages(torch.full(shape, 0.01, dtype=dtype)) for _ in range(_PROBED_BYTES // size // out_features)]
    packed = [_packed(weight, 16) for weight in plain]

    def seconds(product: Callable[[Tensor], Tensor], weights: list[Tensor]) -> float:
        began = time.perf_counter()
        for weight in weights:
            product(weight)
        return time.perf_counter() - began

    most = 0
    for num_rows in (1, 2):
        rows = torch.full((num_rows, in_features), 0.01, dtype=dtype)
        times = [
            (seconds(partial(F.linear, rows), plain), seconds(partial(_packed_product, rows), packed)) for _ in range(6)
        ]
        fastest_plain, fastest_packed = map(min, zip(*times, strict=True))
        if fastest_plain > 0.95 * fastest_packed:
            break
        most = num_rows
    return most


def _packed(weight: Tensor, num_rows: int) -> Tensor:
    return on_large_pages(torch.ops.mkldnn._reorder_linear_weight(weight, num_rows))


def _packed_product(states: Tensor, weight: Tensor, bias: Tensor | None = None, gelu: str | None = None) -> Tensor:
    fused = ("none", "") if gelu is None else ("gelu", gelu)
    product: Tensor = torch.ops.mkldnn._linear_pointwise(states, weight, bias, fused[0], [], fused[1])
    return product


class PackedLinear(_LaidOut):
    """`activation(linear(x))` with the weight packed by oneDNN. activation: a key of GELU, or None.

    num_rows: how many rows a call typically has; a hint for the layout, any number works. decodes: calls often have
    a single row; where the plain weight is faster for so few, it is kept beside the packed one.
    """

    bias: Tensor | None

    def __init__(
        self, linear: nn.Linear, *, num_rows: int, activation: str | None = None, decodes: bool = False
    ) -> None:
        super().__init__()
        self.out_features = linear.out_features
        self.num_rows = num_rows
        self.plain_rows = plain_rows(linear.weight.dtype, *linear.weight.shape) if decodes else 0
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())
        self.weight = self.lay_out(linear.weight.detach())
        self.approximate = None if activation is None else GELU[activation]

    def lay_out(self, plain: Tensor) -> Tensor:
        self._plain = on_large_pages(plain.clone()) if self.plain_rows else None
        return _packed(plain.contiguous(), self.num_rows)

    def plain(self) -> Tensor:
        return super().plain() if self._plain is None else self._plain

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_plain": None}

    def forward(self, states: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        if self._plain is not None and states.shape[:-1].numel() <= self.plain_rows:
            out = F.linear(states, self._plain, self.bias)
            # torch's own, a single operation: of so few rows its time is nothing.
            return out if self.approximate is None else torch.ops.aten.gelu_(out, approximate=self.approximate)
        if self.approximate is None or fuses_gelu():
            return _packed_product(states, self.weight, self.bias, self.approximate)
        return gelu_(_packed_product(states, self.weight, self.bias), self.approximate)


@lru_cache
def _saturates() -> bool:
    """Whether this CPU's int8 product overflows between sums: it does without VNNI, on full-range activations."""
    ones = torch.full((32, 64), 127, dtype=torch.int8)
    product = _int8_product(torch.full((4, 64), 255, dtype=torch.uint8), _int8_pack(ones), torch.ones(32), zero=0)
    return bool((product != 255 * 127 * 64).any())


def _int8_pack(weight: Tensor) -> Tensor:
    return on_large_pages(torch.ops.onednn.qlinear_prepack(weight, None))


def _int8_product(states: Tensor, weight: Tensor, weight_scale: Tensor, zero: int) -> Tensor:
    no_offsets = torch.zeros(weight_scale.shape, dtype=torch.int32)
    product: Tensor = torch.ops.onednn.qlinear_pointwise(
        states, 1.0, zero, weight, weight_scale, no_offsets, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return product


class Int8Linear(_LaidOut):
    """A linear layer in 8 bits: weights with a scale a channel, activations with a scale a row.

    A scale a row keeps a row's result free of its neighbours; the usual scale a tensor does not.
    """

    bias: Tensor | None
    weight_scale: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.out_features = linear.out_features
        weight = linear.weight.detach().float()
        self.register_buffer("weight_scale", weight.abs().amax(dim=1).clamp(min=1e-12) / 127)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().float().clone())
        self.weight = self.lay_out((weight / self.weight_scale[:, None]).round().to(torch.int8))
        self.levels = 63 if _saturates() else 127

    def lay_out(self, plain: Tensor) -> Tensor:
        return _int8_pack(plain.contiguous())

    def plain(self) -> Tensor:
        """The weight, (out_features, in_features), int8, in units of its channel's scale."""
        return self.weight.to_dense().t().contiguous()

    def forward(self, states: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features), float32."""
        scale = states.abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / self.levels
        quantised = torch.div(states, scale).round_().add_(self.levels + 1).to(torch.uint8)
        product = _int8_product(quantised, self.weight, self.weight_scale, zero=self.levels + 1).mul_(scale)
        return product if self.bias is None else product.add_(self.bias)
