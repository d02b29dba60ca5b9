"""Logits of a masked-language-model head, only where they are asked for and a few positions at a time.

What the two masked-LM tasks share. Never holds (tokens, vocabulary) for a whole document: at 4,096 tokens and
50,358 entries that would be 0.8 GB, more than the encoder's own activations.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from bigbird.packing import PackedBatch, to_device

LOGITS_PER_CHUNK = 8_388_608  # 32 MiB of float32: large enough for the matrix units, small enough to forget


def logits_at(
    model: Any, states: Tensor, packed: PackedBatch, positions: Sequence[np.ndarray]
) -> Iterator[tuple[slice, Tensor]]:
    """The head's logits at some positions of each row of a packed batch, in chunks.

    model: BigBirdForMaskedLM or BigBirdForPreTraining. states: (T, hidden). positions: one array a row of the
    batch, counted from the row's start. Yields (chunk, logits (chunk, vocab) float32), the chunks following the
    concatenated positions.
    """
    flat = np.concatenate([start + array for start, array in zip(packed.starts, positions, strict=True)])
    index = to_device(flat.astype(np.int64), states.device)
    size = max(1, LOGITS_PER_CHUNK // model.config.vocab_size)
    for begin in range(0, len(flat), size):
        chunk = slice(begin, min(begin + size, len(flat)))
        yield chunk, model.cls(states[index[chunk]]).float()


def split_like(values: np.ndarray, positions: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Values at the concatenated positions, one array a row again."""
    return np.split(values, np.cumsum([len(array) for array in positions])[:-1])
