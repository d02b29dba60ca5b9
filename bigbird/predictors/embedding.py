"""feature-extraction: a text in, one vector out.

Knows how the states of a text, and of the windows of a long one, become one vector. Needs the encoder only, so a
checkpoint of any head will do.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from bigbird.packing import PackedBatch
from bigbird.predictors.examples import PreparedWindows, Record, Row, TokenizedText
from bigbird.predictors.options import LengthOptions
from bigbird.predictors.predictor import EncoderPredictor

Pooling = Literal["cls", "mean"]


@dataclass(frozen=True, kw_only=True)
class FeatureExtractionOptions(LengthOptions):
    """Lengths, and how states become a vector.

    pooling: "mean" of the last hidden states of all tokens, [CLS] and [SEP] with them, as sentence-transformers
    computes it; or the state of the first token, "cls". A long text's vector is the mean of its windows' vectors,
    weighted by the tokens each window keeps. normalize: to length 1, at the very end.
    """

    pooling: Pooling = "mean"
    normalize: bool = False


class FeatureExtractionPredictor(EncoderPredictor[FeatureExtractionOptions, PreparedWindows, np.ndarray]):
    """Predictor for the encoder of any checkpoint. An example is a text."""

    task = "feature-extraction"
    options_class = FeatureExtractionOptions
    architectures = ()

    def build(self, texts: list[TokenizedText], options: FeatureExtractionOptions) -> PreparedWindows:
        """Cut into windows."""
        (text,) = texts
        limit = options.length_limit(self.config.max_position_embeddings)
        return PreparedWindows.cut(self.tokenizer, text, limit, options)

    @property
    def encoder(self) -> Any:
        return getattr(self.model, "bert", self.model)

    def read(self, states: Tensor, packed: PackedBatch, rows: list[Row]) -> list[np.ndarray]:
        pooled = [
            torch.stack([states[start].float(), states[start : start + length].float().mean(dim=0)])
            for start, length in zip(packed.starts, packed.lengths, strict=True)
        ]
        return list(torch.stack(pooled).cpu().numpy())

    def gather(self, item: PreparedWindows, vectors: list[np.ndarray]) -> np.ndarray:
        """Both poolings of the document, (2, hidden_size) float32: cls and mean."""
        weights = np.array([window.num_kept / item.num_tokens for window in item.windows], dtype=np.float32)
        return np.asarray(np.tensordot(weights, np.stack(vectors), axes=1))

    def decode(self, item: PreparedWindows, vectors: np.ndarray, options: FeatureExtractionOptions) -> Record:
        """{"embedding": hidden_size floats}."""
        vector = vectors[("cls", "mean").index(options.pooling)]
        if options.normalize:
            vector = vector / max(float(np.linalg.norm(vector)), 1e-12)
        return {"embedding": vector.tolist()}
