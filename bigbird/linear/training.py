"""`nn.Linear` whose products in float32 training are oneDNN's on CPUs where torch's own are slower.

torch's own float32 product is MKL's, which on AMD's AVX-512 processors reaches from half to nine tenths of oneDNN's
rate in a forward pass. The operator that `packed_linear` uses takes plain and transposed weights as well: all that a
gradient needs. On Intel's processors MKL is the faster one, in a backward pass up to four times. The processor decides,
not a probe: a run that goes on from a saved state is to make the same steps. First derivatives only, as of the
attention: no double backward, no `torch.func`.
"""

import platform
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from bigbird.linear.packed import can_pack


class Linear(nn.Linear):
    """The same function as `nn.Linear`, to rounding."""

    def forward(self, states: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        return linear(states, self.weight, self.bias)


def linear(states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(..., K), (M, K) and (M,) -> (..., M). Other types, devices and inference are left to torch."""
    if not _is_float32_training(states, weight):
        return F.linear(states, weight, bias)
    product: Tensor = _Product.apply(states.reshape(-1, weight.shape[1]), weight, bias)  # type: ignore[no-untyped-call]
    return product.view(*states.shape[:-1], weight.shape[0])


def _is_float32_training(states: Tensor, weight: Tensor) -> bool:
    return (
        torch.is_grad_enabled()
        and not torch.compiler.is_compiling()  # which has products of its own
        and weight.requires_grad
        and states.numel() > 0
        and states.device.type == "cpu"
        and states.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not _has_own_mkl()
        and can_pack(torch.float32)
    )


@lru_cache
def _has_own_mkl() -> bool:
    """Whether torch's products are MKL's and the processor is Intel's."""
    cpuinfo = Path("/proc/cpuinfo")
    processor = cpuinfo.read_text() if cpuinfo.exists() else platform.processor()
    return torch.backends.mkl.is_available() and "GenuineIntel" in processor


def _product(states: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(N, K), (M, K) and (M,) -> (N, M)."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(states, weight, bias, "none", [], "")
    return product


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(states, weight)
        ctx.has_bias = bias is not None
        return _product(states, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
        states, weight = ctx.saved_tensors
        d_states = _product(gradient, weight.t()) if ctx.needs_input_grad[0] else None
        # The sum over tokens: the narrower side stands for the rows, which is the faster way round.
        if gradient.shape[1] <= states.shape[1]:
            d_weight = _product(gradient.t(), states.t())
        else:
            d_weight = _product(states.t(), gradient.t()).t()
        return d_states, d_weight, gradient.sum(0) if ctx.has_bias else None
