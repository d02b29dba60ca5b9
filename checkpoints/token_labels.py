"""Entities, as characters, become a label for every token. Knows the labels' weights in the loss, no model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from tokenizers import Encoding

from checkpoints.code_entities import LABELS

IGNORED = -100
# Nine tokens of ten are no entity: without weights a model first learns to find none.
WEIGHTS = torch.tensor([{"O": 1.0, "EXCEPTION": 3.0}.get(label, 2.0) for label in LABELS])


def token_labels(encoding: Encoding, entities: Iterable[Mapping[str, Any]]) -> np.ndarray:
    """(tokens,) int64, indices into `LABELS`: a token has an entity's label if the two share a character."""
    labels = np.zeros(len(encoding.ids), dtype=np.int64)
    starts = np.array([start for start, _ in encoding.offsets])
    ends = np.array([end for _, end in encoding.offsets])
    for entity in entities:
        first = int(np.searchsorted(ends, entity["start"], side="right"))
        last = int(np.searchsorted(starts, entity["end"], side="left"))
        labels[first:last] = LABELS.index(entity["label"])
    return labels
