"""CUDA: one FlexAttention kernel for all rows of a packed batch, from the plan's own parts.

`tiles` lists what the kernel reads; `mask_mod` decides by token in tiles that are read in part: at the ends of rows,
in short last blocks, on the diagonal of a decoder, and everywhere once tokens are masked. One graph serves encoders,
decoders, masked tokens and any number of rows: what differs is in tensors. Inference only, and collapsed random
attention only: seeded blocks differ by head and layer, which would mean a mask for each.

Always compiled: uncompiled, FlexAttention fills a T x T matrix. What cannot be compiled raises CompileError.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from bigbird.attention.plan import AttentionPlan
from bigbird.attention.tiles import BlockLists, block_size, read_tiles
from bigbird.compiled import call_compiled, refuse_uncompiled
from bigbird.packing import rows_and_positions, to_device

_Mod = Callable[..., Tensor]


class MaskTensors(NamedTuple):
    """What the kernel knows of a batch, on its device. Legend: T tokens of the axis, L its blocks.

    part_counts, whole_counts: (1, 1, L) int32. part_blocks, whole_blocks: (1, 1, L, L) int32, see `BlockLists`.
    Per token, (T,): query_row, key_row: which row it belongs to, as a key -2 where masked; -1 in gaps. block: its block
    in a sparse row, else 0. is_global: in a sparse row's first or last block. last_key: the last key a query may read.
    extra: the logarithm added to a query's scores for keys with first_block 1, else 0.
    """

    part_counts: Tensor
    part_blocks: Tensor
    whole_counts: Tensor
    whole_blocks: Tensor
    query_row: Tensor
    key_row: Tensor
    block: Tensor
    is_global: Tensor
    last_key: Tensor
    extra: Tensor
    first_block: Tensor


class FlexAttention:
    """Attention of one packed batch by its plan; interchangeable with `BlockSparseAttention` in inference.

    attended: (T,) bool, False for tokens no query may read; None when all may be read.
    """

    def __init__(self, plan: AttentionPlan, attended: Tensor | None = None, *, dropout: float = 0.0) -> None:
        assert dropout == 0.0, "made for inference"
        self.plan = plan
        self.attended = attended
        self.block_size = block_size(plan.config)
        self._tensors: MaskTensors | None = None

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query, key, value: (T, num_heads, head_dim) -> context of the same shape. Raises CompileError."""
        if self._tensors is None:  # the same for all layers
            self._tensors = self.tensors(len(query), query.device)
        states = [states.transpose(0, 1)[None] for states in (query, key, value)]
        for view in states:  # heads and head_dim never change, whatever number of blocks they equal by chance
            torch._dynamo.mark_static(view, [1, 3])
        return call_compiled(_kernel(self.block_size), *states, self._tensors)[0].transpose(0, 1)

    def tensors(self, num_tokens: int, device: torch.device) -> MaskTensors:
        """Made on the host as far as the tiles go, and sent in one copy; the rest is computed on the device."""
        plan, config = self.plan, self.plan.config
        part, whole = read_tiles(plan, num_tokens, self.block_size, masked=self.attended is not None)
        sparse = np.array([config.is_sparse(length) for length in plan.lengths])
        rows = [np.array(plan.starts), np.array(plan.lengths), sparse]
        sent = _send([*rows, part.counts, part.flat, whole.counts, whole.flat], device)
        starts, lengths, is_sparse, part_counts, part_flat, whole_counts, whole_flat = sent
        row, position = rows_and_positions(starts, lengths, num_tokens)
        in_sparse = is_sparse[row].bool() & (row >= 0)
        block = torch.where(in_sparse, position // config.block_size, 0)
        last = (lengths[row] - 1) // config.block_size
        is_global = in_sparse & ((block == 0) | (block == last))
        tokens = torch.arange(num_tokens, dtype=torch.int32, device=device)
        return MaskTensors(
            part_counts=part_counts[None, None],
            part_blocks=_square(part_flat, part),
            whole_counts=whole_counts[None, None],
            whole_blocks=_square(whole_flat, whole),
            query_row=row,
            # Never the tensor that query_row is: that would be another graph.
            key_row=row.clone() if self.attended is None else torch.where(self.attended, row, -2),
            block=block,
            is_global=is_global,
            last_key=tokens if config.is_decoder else torch.full_like(tokens, num_tokens),
            extra=torch.where(in_sparse & ~is_global, math.log1p(config.num_random_blocks), 0.0),
            first_block=(in_sparse & (block == 0)).float(),
        )


def _send(pieces: Sequence[npt.NDArray[Any]], device: torch.device) -> tuple[Tensor, ...]:
    """Arrays as int32 tensors, in one copy. Each has memory of its own there: an offset would be one more number that
    the compiler expects never to change, or to equal another."""
    sent = to_device(np.concatenate(pieces, dtype=np.int32, casting="unsafe"), device)
    return tuple(piece.clone() for piece in sent.split([len(piece) for piece in pieces]))


def _square(flat: Tensor, lists: BlockLists) -> Tensor:
    """(1, 1, L, L), the lines overlapping in memory."""
    num_blocks = len(lists.counts)
    line = lists.stride
    return flat.as_strided((1, 1, num_blocks, num_blocks), (line * num_blocks, line * num_blocks, line, 1))


def block_mask(tensors: MaskTensors, size: int) -> BlockMask:
    """The tiles and the mask within them, as FlexAttention takes them."""
    num_tokens = len(tensors.query_row)
    return BlockMask(
        (num_tokens, num_tokens),
        tensors.part_counts,
        tensors.part_blocks,
        tensors.whole_counts,
        tensors.whole_blocks,
        None,
        None,
        None,
        None,
        BLOCK_SIZE=(size, size),
        mask_mod=_mask_mod(tensors),
    )


def _mask_mod(of: MaskTensors) -> _Mod:
    def reads(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        near = (of.block[q] - of.block[k]).abs() <= 1
        seen = (of.query_row[q] == of.key_row[k]) & (near | of.is_global[q] | of.is_global[k]) & (k <= of.last_key[q])
        # A query reads itself even where it is masked: its result is dropped, but must not be NaN.
        return seen | (q == k)

    return reads


def _score_mod(of: MaskTensors) -> _Mod:
    def scored(score: Tensor, batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return score + of.extra[q] * of.first_block[k]  # tensors: Inductor lowers no captured float of dynamic graphs

    return scored


@lru_cache
def _kernel(size: int) -> Any:
    """The compiled attention for blocks of `size` tokens, its token axis dynamic."""
    tile = min(size, 64)  # larger ones do not fit a GPU's shared memory in every type
    options: Any = {"BLOCK_M": tile, "BLOCK_N": tile, "FORCE_USE_FLEX_ATTENTION": True}

    def attend(query: Tensor, key: Tensor, value: Tensor, tensors: MaskTensors) -> Tensor:
        refuse_uncompiled("FlexAttention")
        context = flex_attention(
            query,
            key,
            value,
            score_mod=_score_mod(tensors),
            block_mask=block_mask(tensors, size),
            kernel_options=options,
        )
        assert isinstance(context, Tensor)
        return context

    return torch.compile(attend, dynamic=True, fullgraph=True)
