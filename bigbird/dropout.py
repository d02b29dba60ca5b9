"""Dropout from sixteen random bits a number, at a fraction of the time that torch's own draw takes on a CPU."""

import torch
from torch import Tensor, nn


class Drops:
    """Draws which numbers are dropped. `keep` is the exact probability that the bits give a number to stay.

    generator: seeded alike, it gives the same draws again; None: torch's own, on a CPU.
    """

    def __init__(self, probability: float, generator: torch.Generator | None = None) -> None:
        self._limit = round((1 - probability) * 2**16) - 2**15
        self.keep = (self._limit + 2**15) / 2**16
        self._generator = generator

    def draw(self, like: Tensor) -> Tensor:
        """Ones and, where a number is dropped, zeros: of the shape, type and device of `like`."""
        bits = torch.empty(-(-like.numel() // 4), dtype=torch.int64, device=like.device)
        bits.random_(-(2**63), None, generator=self._generator)
        shaped = bits.view(torch.int16)[: like.numel()].view(like.shape)
        # A float mask and products are several times as fast as a boolean one and masked_fill.
        kept = torch.empty(like.shape, dtype=like.dtype, device=like.device)
        return torch.lt(shaped, self._limit, out=kept)


class Dropout(nn.Dropout):
    """The same distribution as `nn.Dropout`, the probability rounded to 2**-16."""

    def forward(self, states: Tensor) -> Tensor:
        drops = Drops(self.p)
        is_usual = states.device.type == "cpu" and 0 < drops.keep < 1 and not torch.compiler.is_compiling()
        if not self.training or not is_usual:
            return super().forward(states)
        kept = drops.draw(states).div_(drops.keep)
        return states.mul_(kept) if self.inplace else states * kept
