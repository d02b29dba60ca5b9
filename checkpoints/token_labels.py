"""Entities, as characters, become a label for every token. Knows the labels' weights in the loss, no model."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from tokenizers import Encoding

from checkpoints.code_entities import LABELS

IGNORED = -100
# Nine tokens of ten are no entity: without weights a model first learns to find none.
WEIGHTS = torch.tensor([{"O": 1.0, "EXCEPTION": 3.0}.get(label, 2.0) for label in LABELS])


def tokens_between(offsets: Sequence[tuple[int, int]], start: int, end: int) -> range:
    """The tokens that share a character with text[start:end]; offsets: of all tokens, [start, end) each, in order."""
    return range(
        bisect_right(offsets, start, key=lambda offset: offset[1]),
        bisect_left(offsets, end, key=lambda offset: offset[0]),
    )


def token_labels(encoding: Encoding, entities: Iterable[Mapping[str, Any]]) -> np.ndarray:
    """(tokens,) int64, indices into `LABELS`: a token has an entity's label if the two share a character."""
    labels = np.zeros(len(encoding.ids), dtype=np.int64)
    offsets = encoding.offsets
    for entity in entities:
        covered = tokens_between(offsets, entity["start"], entity["end"])
        labels[covered.start : covered.stop] = LABELS.index(entity["label"])
    return labels
