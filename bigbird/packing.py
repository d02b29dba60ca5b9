"""Rows with padding  <->  one flat token axis without it.

Legend: B rows (batch), L padded length, T packed tokens (the sum of the rows' lengths).
Knows nothing of the model: it only moves tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bigbird.errors import InputError


@dataclass(frozen=True, kw_only=True)
class PackedBatch:
    """Rows laid one after another on one axis.

    input_ids, token_type_ids, position_ids: (T,), integers. lengths: tokens of each row, all at least 1.
    starts: index of each row's first token on the packed axis; by default a row follows the one before it at once.
    Otherwise there are gaps, tokens of no row, whose states mean nothing.
    """

    input_ids: Tensor
    token_type_ids: Tensor
    position_ids: Tensor
    lengths: tuple[int, ...]
    starts: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "starts", self.starts or close_starts(self.lengths))

    @property
    def num_tokens(self) -> int:
        """Tokens of all rows, gaps not counted."""
        return sum(self.lengths)

    @property
    def first_tokens(self) -> Tensor:
        """Index of each row's first token, (rows,), int64."""
        return to_device(np.array(self.starts), self.input_ids.device)


def close_starts(lengths: Sequence[int]) -> tuple[int, ...]:
    """Where rows begin that follow each other without gaps."""
    return tuple(accumulate(lengths, initial=0))[:-1]


def to_device(array: npt.NDArray[Any], device: torch.device | str) -> Tensor:
    """A copy on the device. For CUDA the copy goes through pinned memory and is asynchronous."""
    values = torch.from_numpy(array)
    if torch.device(device).type == "cuda":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def rows_and_positions(starts: Tensor, lengths: Tensor, num_tokens: int) -> tuple[Tensor, Tensor]:
    """Each token's row and its place in the row, both (num_tokens,) and -1 in gaps; computed where `starts` is."""
    tokens = torch.arange(num_tokens, dtype=starts.dtype, device=starts.device)
    rows = torch.searchsorted(starts, tokens, right=True, out_int32=starts.dtype == torch.int32) - 1
    positions = tokens - starts[rows]
    inside = positions < lengths[rows]
    return torch.where(inside, rows, -1), torch.where(inside, positions, -1)


def pack(
    sequences: Sequence[Sequence[int]],
    token_type_ids: Sequence[Sequence[int]] | None = None,
    *,
    device: torch.device | str = "cpu",
) -> PackedBatch:
    """Lay token lists one after another; positions count from 0 in every row, token types default to 0.

    Raises InputError when there is no row, or a row is empty, naming the row.
    """
    if not sequences:
        raise InputError("a packed batch needs at least one row, got 0")
    lengths = tuple(len(sequence) for sequence in sequences)
    if 0 in lengths:
        raise InputError(f"row {lengths.index(0)} has 0 tokens; at least 1 is needed")
    input_ids = torch.tensor([token for sequence in sequences for token in sequence])
    if token_type_ids is None:
        types = torch.zeros_like(input_ids)
    else:
        types = torch.tensor([kind for row in token_type_ids for kind in row])
        if types.shape != input_ids.shape:
            raise InputError(f"{types.numel()} token types for {input_ids.numel()} tokens; they must be as many")
    positions = torch.cat([torch.arange(length) for length in lengths])
    return PackedBatch(
        input_ids=input_ids.to(device),
        token_type_ids=types.to(device),
        position_ids=positions.to(device),
        lengths=lengths,
    )


@dataclass(frozen=True)
class Packing:
    """Where the packed tokens of a padded batch lie: made from its attention mask, used in both directions.

    A row's length is the last position with mask 1, plus one; what is masked before it stays on the packed axis,
    hidden from attention by `attended`.

    index: (T,) places of the packed tokens in the flattened (B * L) batch; None when nothing is left out.
    attended: (T,) bool, False where a token within a row is masked; None when no token is.
    """

    shape: tuple[int, int]
    lengths: tuple[int, ...]
    index: Tensor | None
    attended: Tensor | None

    @classmethod
    def of_mask(cls, attention_mask: Tensor | None, shape: tuple[int, int]) -> "Packing":
        """Read a mask of 1 (attend) and 0, (B, L); None attends to everything.

        A row masked altogether keeps one token, so that every row has a result (zeros, once unpacked).
        """
        rows, width = shape
        if attention_mask is None:
            return cls(shape, (width,) * rows, None, None)
        if tuple(attention_mask.shape) != shape:
            raise InputError(f"attention_mask has shape {tuple(attention_mask.shape)}, expected {shape}")
        kept = attention_mask != 0
        if bool(kept.all()):
            return cls(shape, (width,) * rows, None, None)
        places = torch.arange(1, width + 1, device=kept.device)
        row_lengths = (kept * places).amax(dim=1).clamp(min=1)
        inside = places <= row_lengths[:, None]
        index = inside.flatten().nonzero().squeeze(1)
        attended = kept.flatten()[index]
        return cls(shape, tuple(row_lengths.tolist()), index, None if bool(attended.all()) else attended)

    def pack(self, padded: Tensor) -> Tensor:
        """(B, L, ...) -> (T, ...)."""
        flat = padded.flatten(0, 1)
        return flat if self.index is None else flat[self.index]

    def unpack(self, packed: Tensor) -> Tensor:
        """(T, ...) -> (B, L, ...), zeros wherever the attention mask is 0."""
        if self.attended is not None:
            packed = packed * self.attended.view(-1, *[1] * (packed.dim() - 1))
        if self.index is not None:
            flat = packed.new_zeros(self.shape[0] * self.shape[1], *packed.shape[1:])
            packed = flat.index_copy(0, self.index, packed)
        return packed.view(*self.shape, *packed.shape[1:])
