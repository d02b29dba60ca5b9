"""feature-extraction: a text in; one vector out, or one for each token.

Knows how the states of a text, and of the windows of a long one, become vectors. Needs the encoder only, so a
checkpoint of any head will do.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bigbird.packing import PackedBatch
from bigbird.predictors.examples import PreparedWindows, Record, Row
from bigbird.predictors.predictor import EncoderPredictor
from bigbird.predictors.tasks import FeatureExtractionOptions
from bigbird.predictors.texts import TokenizedText
from bigbird.predictors.windows import stitch


@dataclass(frozen=True, eq=False)
class StatesRow(Row):
    """A row, and whether every token's state is asked for."""

    every_token: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class PreparedStates(PreparedWindows):
    """Windows, and whether every token's state is asked for."""

    every_token: bool


class FeatureExtractionPredictor(EncoderPredictor[FeatureExtractionOptions, PreparedStates, np.ndarray]):
    """Predictor for the encoder of any checkpoint. An example is a text."""

    task = "feature-extraction"

    def build(self, texts: list[TokenizedText], options: FeatureExtractionOptions) -> PreparedStates:
        """Cut into windows; whether every token's state is asked for is read here."""
        (text,) = texts
        limit = options.length_limit(self.config.max_position_embeddings)
        from_end = options.truncation_side == "left" and len(text) > limit - 2 > 0
        read = text.tail(limit - 2) if from_end else text
        item = PreparedStates.cut(self.tokenizer, read, limit, options, every_token=options.pooling == "none")
        return replace(item, truncated=True) if from_end else item

    @property
    def encoder(self) -> Any:
        return getattr(self.model, "bert", self.model)

    def rows_of(self, item: PreparedStates) -> list[StatesRow]:
        return [StatesRow(row.ids, every_token=item.every_token) for row in item.rows]

    def read(self, states: Tensor, packed: PackedBatch, rows: list[StatesRow]) -> tuple[Tensor]:
        found = []
        for row, start in zip(rows, packed.starts, strict=True):
            own = states[start : start + len(row)].float()
            found.append(own if row.every_token else torch.stack([own[0], own.mean(dim=0)]))
        return (torch.cat(found),)

    def split(self, arrays: list[np.ndarray], packed: PackedBatch, rows: list[StatesRow]) -> list[np.ndarray]:
        counts = [len(row) if row.every_token else 2 for row in rows]
        return np.split(arrays[0], np.cumsum(counts)[:-1])

    def gather(self, item: PreparedStates, vectors: list[np.ndarray]) -> np.ndarray:
        """Each window's poolings, cls and mean, (windows, 2, hidden_size) float32; or (2 + tokens, hidden_size)."""
        if not item.every_token:
            return np.stack(vectors)
        tokens = stitch(item.windows, [array[1:-1] for array in vectors])
        return np.concatenate([vectors[0][:1], tokens, vectors[-1][-1:]])

    def decode(self, item: PreparedStates, vectors: np.ndarray, options: FeatureExtractionOptions) -> Record:
        """{"embedding": hidden_size floats}, or {"token_embeddings": one such list a token, [CLS] and [SEP] too}."""
        if item.every_token:
            return {"token_embeddings": _listed(vectors, options)}
        weights = np.array([window.num_kept / item.num_tokens for window in item.windows], dtype=np.float32)
        return {"embedding": _listed(np.tensordot(weights, _pooled(vectors, options), axes=1), options)}

    def decode_windows(
        self, item: PreparedStates, vectors: np.ndarray, options: FeatureExtractionOptions
    ) -> list[Record]:
        """The vector of each window."""
        return [{"embedding": _listed(vector, options)} for vector in _pooled(vectors, options)]


def _pooled(vectors: np.ndarray, options: FeatureExtractionOptions) -> np.ndarray:
    return np.asarray(vectors[:, ("cls", "mean").index(options.pooling)])


def _listed(vectors: np.ndarray, options: FeatureExtractionOptions) -> list[Any]:
    if options.normalize:
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    listed: list[Any] = vectors.tolist()
    return listed
