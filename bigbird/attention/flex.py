"""CUDA: one FlexAttention kernel for all rows of a packed batch, from the plan's own parts.

The kernel works on blocks of the packed axis, which rows need not meet: `kernel_blocks` marks every pair of kernel
blocks that some query and key of the plan share, and `mask_mod` decides by token within them. Inference only, and
collapsed random attention only: seeded blocks differ by head and layer, which would mean a mask for each.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from bigbird.attention.plan import AttentionPlan, Span

KERNEL_BLOCK = 128
"""Tokens of a kernel block: what FlexAttention's own tiles divide."""


def kernel_blocks(plan: AttentionPlan) -> npt.NDArray[np.bool_]:
    """Which blocks of queries and keys of the packed axis meet: (blocks, blocks)."""
    total = -(-sum(plan.lengths) // KERNEL_BLOCK)
    meet = np.zeros((total, total), dtype=np.bool_)
    for part in plan.parts:
        for queries in map(_touched, part.queries):
            for keys in map(_touched, part.keys):
                meet[queries[:, :, None], keys[:, None, :]] = True
    # Only a decoder's parts are causal, and all of them are: what lies behind a query is never read.
    return np.tril(meet) if plan.config.is_decoder else meet


def _touched(span: Span) -> npt.NDArray[np.int64]:
    """The kernel blocks each run of a span lies in: (runs, blocks), the last one repeated in shorter lines."""
    starts = span.start + np.arange(span.runs) * span.step
    first, last = starts // KERNEL_BLOCK, (starts + span.size - 1) // KERNEL_BLOCK
    return np.minimum(first[:, None] + np.arange((last - first).max() + 1), last[:, None])


class FlexAttention:
    """Attention of one packed batch by its plan; interchangeable with `BlockSparseAttention` in inference.

    attended: (T,) bool, False for tokens no query may read; None when all may be read.
    """

    def __init__(self, plan: AttentionPlan, attended: Tensor | None = None, *, dropout: float = 0.0) -> None:
        assert dropout == 0.0, "made for inference"
        assert not plan.seeded, "seeded random attention has no FlexAttention mask"
        self.plan = plan
        self.attended = attended
        self._made: tuple[BlockMask, Callable[..., Tensor]] | None = None

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query, key, value: (T, num_heads, head_dim) -> context of the same shape."""
        if self._made is None:  # the same for all layers
            self._made = self._block_mask(query.device), self._score_mod(query.device)
        mask, score_mod = self._made
        kernel = _kernel(query.device.type)
        q, k, v = (states.transpose(0, 1)[None] for states in (query, key, value))
        context: Tensor = kernel(q, k, v, score_mod=score_mod, block_mask=mask)
        return context[0].transpose(0, 1)

    def _tokens(self, device: torch.device) -> dict[str, Tensor]:
        """Per packed token: its row, its block in the row, the row's last block, whether the row is sparse."""
        plan = self.plan
        lengths = torch.tensor(plan.lengths)
        starts = torch.tensor(plan.starts)
        row = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        block = (torch.arange(len(row)) - starts[row]) // plan.config.block_size
        sparse = torch.tensor([plan.config.is_sparse(length) for length in plan.lengths])
        tokens = {
            "row": row,
            "block": block,
            "last": (lengths[row] - 1) // plan.config.block_size,
            "sparse": sparse[row],
        }
        return {name: values.to(device) for name, values in tokens.items()}

    def _block_mask(self, device: torch.device) -> BlockMask:
        meet = torch.from_numpy(kernel_blocks(self.plan)).to(device)
        # Met blocks first, in order: FlexAttention reads the first `counts` indices of each line.
        counts = meet.sum(dim=1, dtype=torch.int32)
        order = meet.int().argsort(dim=1, descending=True, stable=True).int()
        tokens = self._tokens(device)
        row, block, last, sparse = tokens["row"], tokens["block"], tokens["last"], tokens["sparse"]
        causal, attended = self.plan.config.is_decoder, self.attended

        def mask_mod(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
            near = (block[q] - block[k]).abs() <= 1
            global_query = (block[q] == 0) | (block[q] == last[q])
            global_key = (block[k] == 0) | (block[k] == last[q])
            reads = (row[q] == row[k]) & (~sparse[q] | near | global_query | global_key)
            if causal:
                reads = reads & (k <= q)
            # A query reads itself even where it is masked: its result is dropped, but must not be NaN.
            return reads if attended is None else reads & (attended[k] | (q == k))

        total = sum(self.plan.lengths)
        return BlockMask.from_kv_blocks(
            counts[None, None],
            order[None, None],
            BLOCK_SIZE=KERNEL_BLOCK,
            mask_mod=mask_mod,
            seq_lengths=(total, total),
        )

    def _score_mod(self, device: torch.device) -> Callable[..., Tensor]:
        tokens = self._tokens(device)
        block, last, sparse = tokens["block"], tokens["last"], tokens["sparse"]
        bias = math.log1p(self.plan.config.num_random_blocks)

        def score_mod(score: Tensor, batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
            middle = sparse[q] & (block[q] != 0) & (block[q] != last[q])
            return score + torch.where(middle & (block[k] == 0), bias, 0.0)

        return score_mod


@lru_cache
def _kernel(device_type: str) -> Any:
    """Compiled once, with the token axis dynamic; on CPU, where only tests come, as it is."""
    return torch.compile(flex_attention, dynamic=True) if device_type == "cuda" else flex_attention
