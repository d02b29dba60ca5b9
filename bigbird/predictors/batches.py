"""Rows of any lengths through the encoder, in micro-batches under a token budget.

Knows how rows become batches and results find their way back in order; what is read from the encoder's states
is the task's.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from bigbird.config import BigBirdConfig
from bigbird.packing import PackedBatch, rows_and_positions, to_device
from bigbird.predictors.examples import ModelRow, Row

RowT = TypeVar("RowT", bound=ModelRow)
Result = TypeVar("Result")

# By measurement on CPUs, and by reckoning on GPUs: a larger batch is no faster. And by memory: see `activation_bytes`.
FAST_MAX_TOKENS = {"cpu": 16_384, "cuda": 65_536}
MAX_CPU_BYTES = 1 << 30
CUDA_SHARE = 0.5
"""Of the free memory of a GPU, for the tokens of a batch: the batch before it and the task's head have the rest."""


def activation_bytes(config: BigBirdConfig, device_type: str, dtype: torch.dtype) -> int:
    """Bytes a token of a packed batch takes in the encoder of a prepared model, beside the weights.

    On a CPU the most is held in attention: the layer's input, query, key and value, the context, a part of it. On
    other devices it is after it: the layer's input, two more as wide, the widened states before and after their
    activation; and what the mask knows of each token.
    """
    attention = 6 * config.hidden_size
    widened = 3 * config.hidden_size + 2 * config.intermediate_size
    numbers = attention if device_type == "cpu" else max(attention, widened)
    log_sum_exps = 2 * 4 * config.num_attention_heads
    mask = 0 if device_type == "cpu" else 64 + 8 * config.max_position_embeddings // config.block_size**2
    return numbers * dtype.itemsize + log_sum_exps + mask


def default_max_tokens_per_batch(model: Any) -> int:
    """Token budget of a micro-batch where none is given: enough to keep the device busy, little of its memory.

    On CUDA it follows from the memory that is free when it is asked, within this process's fraction of it.
    """
    if model is None:
        return FAST_MAX_TOKENS["cpu"]
    weight = next(model.parameters())
    if weight.is_cuda:
        device, budget = "cuda", int(CUDA_SHARE * _free_cuda_bytes(weight.device))
    else:
        device, budget = "cpu", MAX_CPU_BYTES
    return max(1, min(FAST_MAX_TOKENS[device], budget // activation_bytes(model.config, device, weight.dtype)))


def _free_cuda_bytes(device: torch.device) -> int:
    free, total = torch.cuda.mem_get_info(device)
    reserved = torch.cuda.memory_reserved(device)
    unused = reserved - torch.cuda.memory_allocated(device)
    mine = int(torch.cuda.get_per_process_memory_fraction(device) * total) - reserved
    return min(free, mine) + unused


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


def pack_rows(rows: Sequence[ModelRow], bert: Any) -> PackedBatch:
    """The rows on one token axis, where `bert`, a BigBirdModel, wants them. One copy to its device; positions and
    token types are computed there."""
    lengths = tuple(len(row) for row in rows)
    starts, num_tokens = bert.layout(lengths)
    types_from = [len(row) if row.types_from is None else row.types_from for row in rows]
    ids = np.zeros(num_tokens, dtype=np.int32)
    for row, start in zip(rows, starts, strict=True):
        ids[start : start + len(row)] = row.ids
    numbers = to_device(np.concatenate([ids, starts, lengths, types_from], dtype=np.int32), bert.device)
    input_ids, first, counts, typed = numbers.split([num_tokens, *[len(rows)] * 3])
    row_of, positions = rows_and_positions(first, counts, num_tokens)
    return PackedBatch(
        input_ids=input_ids,
        token_type_ids=(positions >= typed[row_of]).int(),
        position_ids=positions.clamp(min=0),
        lengths=lengths,
        starts=starts,
    )


@dataclass(frozen=True)
class Asked(Generic[RowT, Result]):
    """Rows that one reader asks of the encoder, and what it makes of their states.

    read(states, packed, rows): what is wanted of states (T, hidden) of one micro-batch; rows: those of the reader in
    it, in the order of `packed`, in which the rows of others are gaps; waits for nothing. split(arrays, packed, rows):
    the same on the host, as one result a row.
    """

    rows: Sequence[RowT]
    read: Callable[[Tensor, PackedBatch, list[RowT]], tuple[Tensor, ...]]
    split: Callable[[list[np.ndarray], PackedBatch, list[RowT]], Sequence[Result]]


@torch.inference_mode()
def encode_rows(bert: Any, max_tokens: int, asked: Sequence[Asked[Any, Any]]) -> list[list[Any]]:
    """Encode all rows and return for each reader what it makes of its rows, in their order.

    bert: the BigBirdModel. max_tokens: the budget of a micro-batch. A row that several readers ask for is encoded once.

    A GPU computes a batch while the host packs the next one and plans its attention: results are fetched only then.
    """
    rows, places = _shared(asked)
    results: list[dict[int, Any]] = [{} for _ in asked]
    running: list[_Read] = []
    for batch in micro_batches([len(row) for row in rows], max_tokens):
        packed = pack_rows([rows[place] for place in batch], bert)
        states = bert.encode(packed)
        started = []
        for number, (reader, numbers) in enumerate(zip(asked, places, strict=True)):
            mine = [(index, numbers[place]) for index, place in enumerate(batch) if place in numbers]
            if mine:
                started.append(_Read(reader, results[number], states, packed, *zip(*mine, strict=True)))
        for read in running:
            read.finish()
        running = started
    for read in running:
        read.finish()
    return [[found[index] for index in range(len(reader.rows))] for reader, found in zip(asked, results, strict=True)]


def _shared(asked: Sequence[Asked[Any, Any]]) -> tuple[list[ModelRow], list[dict[int, int]]]:
    """Every row to encode, and for each reader, by the place of a row among them, the number of its own.

    A row that a reader itself asks for twice is encoded twice.
    """
    rows: list[ModelRow] = []
    known: dict[tuple[bytes, int], int] = {}
    places: list[dict[int, int]] = []
    for reader in asked:
        times: Counter[bytes] = Counter()
        numbers = {}
        for number, row in enumerate(reader.rows):
            content = hashlib.blake2b(row.ids.tobytes(), digest_size=16, key=str(row.types_from).encode()).digest()
            place = known.setdefault((content, times[content]), len(rows))
            if place == len(rows):
                rows.append(row)
            times[content] += 1
            numbers[place] = number
        places.append(numbers)
    return rows, places


class _Read:
    """What one reader makes of its rows in one micro-batch, on its way to the host.

    inside: which rows of the batch are the reader's. numbers: which of all its rows they are.
    """

    def __init__(
        self,
        reader: Asked[Any, Any],
        results: dict[int, Any],
        states: Tensor,
        batch: PackedBatch,
        inside: Sequence[int],
        numbers: Sequence[int],
    ) -> None:
        self.reader, self.results, self.numbers = reader, results, numbers
        self.rows = [reader.rows[number] for number in numbers]
        lengths, starts = (tuple(of[index] for index in inside) for of in (batch.lengths, batch.starts))
        self.packed = replace(batch, lengths=lengths, starts=starts)
        self.copies = _Copies(reader.read(states, self.packed, self.rows))

    def finish(self) -> None:
        found = self.reader.split(self.copies.arrays(), self.packed, self.rows)
        self.results.update(zip(self.numbers, found, strict=True))


class _Copies:
    """Tensors on their way to the host: from CUDA through pinned memory, while the device goes on."""

    def __init__(self, tensors: tuple[Tensor, ...]) -> None:
        self.copied: torch.cuda.Event | None = None
        self.tensors = tensors
        if tensors[0].is_cuda:
            self.tensors = tuple(torch.empty_like(tensor, device="cpu", pin_memory=True) for tensor in tensors)
            for host, tensor in zip(self.tensors, tensors, strict=True):
                host.copy_(tensor, non_blocking=True)
            self.copied = torch.cuda.Event()
            self.copied.record()

    def arrays(self) -> list[np.ndarray]:
        if self.copied is None:
            return [tensor.numpy() for tensor in self.tensors]
        self.copied.synchronize()
        return [tensor.numpy().copy() for tensor in self.tensors]  # pinned memory is for the next batch


@torch.inference_mode()
def warm_up(bert: Any) -> None:
    """Compile for CUDA what `bert` runs: a sparse and some short rows stand for every batch."""
    longest = bert.config.max_position_embeddings
    lengths = [min(longest, bert.config.full_attention_limit + bert.config.block_size + 1), *[min(longest, 17)] * 3]
    bert.encode(pack_rows([Row(np.zeros(length, dtype=np.int32)) for length in lengths], bert))


def split_rows(array: np.ndarray, packed: PackedBatch) -> list[np.ndarray]:
    """(T, ...) of a packed batch as one array a row."""
    return [array[start : start + length] for start, length in zip(packed.starts, packed.lengths, strict=True)]
