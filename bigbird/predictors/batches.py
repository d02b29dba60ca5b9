"""Rows of any lengths through the encoder, in micro-batches under a token budget.

Knows how rows become batches and results find their way back in order; what is read from the encoder's states
is the task's.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from bigbird.config import BigBirdConfig
from bigbird.packing import PackedBatch
from bigbird.predictors.examples import ModelRow, Prepared

RowT = TypeVar("RowT", bound=ModelRow)
Result = TypeVar("Result")
PreparedT = TypeVar("PreparedT", bound=Prepared)
Output = TypeVar("Output", bound=Iterable[Any])  # of arrays; an array is one of its rows

# By measurement: a larger batch is no faster. And by memory: see `activation_bytes`.
FAST_MAX_TOKENS = {"cpu": 16_384, "cuda": 65_536}
MAX_ACTIVATION_BYTES = {"cpu": 1 << 30, "cuda": 4 << 30}


def activation_bytes(config: BigBirdConfig, device_type: str, dtype: torch.dtype) -> int:
    """Bytes a token of a packed batch takes in the encoder of a prepared model, beside the weights.

    On a CPU the most is held in attention: the layer's input, query, key and value, the context, a part of it. On
    other devices the widened states, before and after their activation, may be more.
    """
    attention = 6 * config.hidden_size
    widened = 2 * config.hidden_size + 2 * config.intermediate_size
    numbers = attention if device_type == "cpu" else max(attention, widened)
    log_sum_exps = 2 * 4 * config.num_attention_heads
    return numbers * dtype.itemsize + log_sum_exps


def default_max_tokens_per_batch(model: Any) -> int:
    """Token budget of a micro-batch where none is given: enough to keep the device busy, little of its memory."""
    if model is None:
        return FAST_MAX_TOKENS["cpu"]
    weight = next(model.parameters())
    device = weight.device.type if weight.device.type in FAST_MAX_TOKENS else "cpu"
    room = MAX_ACTIVATION_BYTES[device] // activation_bytes(model.config, device, weight.dtype)
    return min(FAST_MAX_TOKENS[device], room)


def micro_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Indices of the rows of each batch, the longest rows first, so that rows of a batch are of similar length.

    A batch has at most `max_tokens` tokens, except where one row alone has more: it gets a batch of its own.
    """
    batches: list[list[int]] = []
    room = 0
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if lengths[index] > room:
            batches.append([])
            room = max_tokens
        batches[-1].append(index)
        room -= lengths[index]
    return batches


def pack_rows(rows: Sequence[ModelRow], device: torch.device | str) -> PackedBatch:
    """The rows on one token axis, straight from their arrays."""
    lengths = tuple(len(row) for row in rows)
    token_types = np.zeros(sum(lengths), dtype=np.int64)
    for row, start in zip(rows, accumulate(lengths, initial=0), strict=False):
        if row.types_from is not None:
            token_types[start + row.types_from : start + len(row)] = 1
    ids = np.concatenate([row.ids for row in rows]).astype(np.int64)
    positions = np.concatenate([np.arange(length) for length in lengths])
    return PackedBatch(
        input_ids=torch.from_numpy(ids).to(device),
        token_type_ids=torch.from_numpy(token_types).to(device),
        position_ids=torch.from_numpy(positions).to(device),
        lengths=lengths,
    )


@torch.inference_mode()
def encode_rows(
    bert: Any,
    max_tokens: int,
    read: Callable[[Tensor, PackedBatch, list[RowT]], Sequence[Result]],
    rows: Sequence[RowT],
) -> list[Result]:
    """Encode all rows and return what `read` makes of each, in their order.

    bert: the BigBirdModel. max_tokens: the budget of a micro-batch. read(states, packed, rows): states
    (T, hidden) of one micro-batch and the rows it holds, in the order of its packing; returns one result a row.
    """
    results: dict[int, Result] = {}
    device = next(bert.parameters()).device
    for indices in micro_batches([len(row) for row in rows], max_tokens):
        chosen = [rows[index] for index in indices]
        packed = pack_rows(chosen, device)
        results.update(zip(indices, read(bert.encode(packed), packed, chosen), strict=True))
    return [results[index] for index in range(len(rows))]


def split_rows(values: Tensor, packed: PackedBatch) -> list[np.ndarray]:
    """(T, ...) of a packed batch as one float32 array a row."""
    array = values.float().cpu().numpy()
    return [array[start : start + length] for start, length in zip(packed.starts, packed.lengths, strict=True)]
