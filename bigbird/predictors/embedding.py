"""feature-extraction: a text in, one vector out.

Knows how the states of a text, and of the windows of a long one, become one vector. Needs the encoder only, so a
checkpoint of any head will do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from bigbird.config import BigBirdConfig
from bigbird.packing import PackedBatch
from bigbird.predictors.batches import (
    default_max_tokens_per_batch,
    encode_rows,
    forward_examples,
    to_records,
)
from bigbird.predictors.examples import (
    Failed,
    Prepared,
    Record,
    Row,
    TokenizedText,
    prepare,
    single_text,
    window_rows,
)
from bigbird.predictors.windows import LengthOptions, plan, require_choice
from bigbird.tokenizer import BigBirdTokenizer

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

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("pooling", self.pooling, ("cls", "mean"))


@dataclass(frozen=True, eq=False, kw_only=True)
class PreparedText(Prepared):
    """A text's windows, and the weight of each: (windows,) float32, sum 1."""

    weights: np.ndarray


class FeatureExtractionPredictor:
    """Predictor for the encoder of any checkpoint; `model` None leaves only preprocess and postprocess."""

    task = "feature-extraction"

    def __init__(
        self,
        tokenizer: BigBirdTokenizer,
        config: BigBirdConfig,
        model: Any = None,
        *,
        options: FeatureExtractionOptions | None = None,
        max_tokens_per_batch: int | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.config = config
        self.model = model
        self.options = options or FeatureExtractionOptions()
        self.max_tokens_per_batch = max_tokens_per_batch or default_max_tokens_per_batch(model)

    def preprocess(
        self, examples: Sequence[object], options: FeatureExtractionOptions | None = None
    ) -> list[PreparedText | Failed]:
        """Tokenize and cut into windows."""
        chosen = options or self.options

        def build(texts: list[TokenizedText]) -> PreparedText:
            room = chosen.length_limit(self.config.max_position_embeddings) - 2
            (text,) = texts
            windows, truncated = plan(len(text), room, chosen, what="text")
            kept = windows[-1].stop
            return PreparedText(
                rows=window_rows(self.tokenizer, text, windows),
                num_tokens=kept,
                num_windows=len(windows),
                truncated=truncated,
                weights=np.array([window.num_kept / kept for window in windows], dtype=np.float32),
            )

        return prepare(
            examples,
            tokenizer=self.tokenizer,
            vocab_size=self.config.vocab_size,
            options=chosen,
            texts_of=single_text,
            build=build,
        )

    def forward(self, prepared: Sequence[PreparedText | Failed]) -> list[np.ndarray | None]:
        """Both poolings of each document, (2, hidden_size) float32: cls and mean; None for a Failed."""
        encoder = getattr(self.model, "bert", self.model)

        def read(states: Tensor, packed: PackedBatch, rows: list[Row]) -> list[np.ndarray]:
            pooled = [
                torch.stack([states[start].float(), states[start : start + length].float().mean(dim=0)])
                for start, length in zip(packed.starts, packed.lengths, strict=True)
            ]
            return list(torch.stack(pooled).cpu().numpy())

        def gather(item: PreparedText, vectors: list[np.ndarray]) -> np.ndarray:
            return np.asarray(np.tensordot(item.weights, np.stack(vectors), axes=1))

        run = partial(encode_rows, encoder, self.max_tokens_per_batch, read)
        return forward_examples(prepared, attrgetter("rows"), run, gather)

    def postprocess(
        self,
        prepared: Sequence[PreparedText | Failed],
        outputs: Sequence[np.ndarray | None],
        options: FeatureExtractionOptions | None = None,
    ) -> list[Record]:
        """{"embedding": hidden_size floats}."""
        chosen = options or self.options

        def decode(item: PreparedText, vectors: np.ndarray) -> Record:
            vector = vectors[("cls", "mean").index(chosen.pooling)]
            if chosen.normalize:
                vector = vector / max(float(np.linalg.norm(vector)), 1e-12)
            return {"embedding": vector.tolist()}

        return to_records(prepared, outputs, decode)

    def __call__(self, examples: Sequence[object], options: FeatureExtractionOptions | None = None) -> list[Record]:
        """Records of the same length and order as the examples."""
        prepared = self.preprocess(examples, options)
        return self.postprocess(prepared, self.forward(prepared), options)
