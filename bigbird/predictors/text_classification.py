"""text-classification: a text, or a pair of texts, in; every label with its score out.

Knows how the windows of a long document become one set of logits, and logits become scores.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any, Literal

import numpy as np
from torch import Tensor

from bigbird.config import BigBirdConfig
from bigbird.packing import PackedBatch
from bigbird.predictors.batches import (
    default_max_tokens_per_batch,
    encode_rows,
    forward_examples,
    to_records,
)
from bigbird.predictors.entities import softmax
from bigbird.predictors.examples import (
    Failed,
    NamedTexts,
    Prepared,
    Record,
    Row,
    TokenizedText,
    fields,
    pair_row,
    prepare,
    single_text,
    window_rows,
)
from bigbird.predictors.windows import LengthOptions, plan, require_choice
from bigbird.tokenizer import BigBirdTokenizer

Combine = Literal["mean", "max"]
Function = Literal["softmax", "sigmoid", "none"]


@dataclass(frozen=True, kw_only=True)
class TextClassificationOptions(LengthOptions):
    """Lengths, and how logits become scores.

    combine: the logits of a document's windows become one set by their "mean" or their "max", label by label.
    function_to_apply: "softmax", "sigmoid" or "none"; None goes by the checkpoint as transformers does: "none" for
    problem_type regression, "sigmoid" for multi_label_classification or a single label, "softmax" otherwise.
    """

    combine: Combine = "mean"
    function_to_apply: Function | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("combine", self.combine, ("mean", "max"))
        if self.function_to_apply is not None:
            require_choice("function_to_apply", self.function_to_apply, ("softmax", "sigmoid", "none"))


class TextClassificationPredictor:
    """Predictor for BigBirdForSequenceClassification; `model` None leaves only preprocess and postprocess."""

    task = "text-classification"

    def __init__(
        self,
        tokenizer: BigBirdTokenizer,
        config: BigBirdConfig,
        model: Any = None,
        *,
        options: TextClassificationOptions | None = None,
        max_tokens_per_batch: int | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.config = config
        self.model = model
        self.options = options or TextClassificationOptions()
        self.max_tokens_per_batch = max_tokens_per_batch or default_max_tokens_per_batch(model)

    def preprocess(
        self, examples: Sequence[object], options: TextClassificationOptions | None = None
    ) -> list[Prepared | Failed]:
        """Tokenize and cut into windows. An example is a text, or a mapping with text and text_pair.

        Of a pair that is too long the longer text is cut (the first where both are as long), and the other stands
        whole in every window.
        """
        chosen = options or self.options

        def build(texts: list[TokenizedText]) -> Prepared:
            limit = chosen.length_limit(self.config.max_position_embeddings)
            if len(texts) == 1:
                (text,) = texts
                windows, truncated = plan(len(text), limit - 2, chosen, what="text")
                rows = window_rows(self.tokenizer, text, windows)
                kept = windows[-1].stop
            else:
                first, second = texts
                cut_first = len(first) >= len(second)
                long, whole = (first, second) if cut_first else (second, first)
                what = "text" if cut_first else "text_pair"
                windows, truncated = plan(len(long), limit - 3 - len(whole), chosen, what=what)
                parts = [long.ids[window.start : window.stop] for window in windows]
                rows = tuple(
                    pair_row(self.tokenizer, *((part, whole.ids) if cut_first else (whole.ids, part))) for part in parts
                )
                kept = windows[-1].stop + len(whole)
            return Prepared(rows=rows, num_tokens=kept, num_windows=len(windows), truncated=truncated)

        return prepare(
            examples,
            tokenizer=self.tokenizer,
            vocab_size=self.config.vocab_size,
            options=chosen,
            texts_of=_texts_of,
            build=build,
        )

    def forward(self, prepared: Sequence[Prepared | Failed]) -> list[np.ndarray | None]:
        """Logits of each document's windows, (windows, num_labels) float32; None for a Failed."""

        def read(states: Tensor, packed: PackedBatch, rows: list[Row]) -> list[np.ndarray]:
            return list(self.model.classifier(states[packed.first_tokens]).float().cpu().numpy())

        def gather(item: Prepared, logits: list[np.ndarray]) -> np.ndarray:
            return np.stack(logits)

        run = partial(encode_rows, self.model.bert, self.max_tokens_per_batch, read)
        return forward_examples(prepared, attrgetter("rows"), run, gather)

    def postprocess(
        self,
        prepared: Sequence[Prepared | Failed],
        outputs: Sequence[np.ndarray | None],
        options: TextClassificationOptions | None = None,
    ) -> list[Record]:
        """{"labels": [{"label", "score"}, ...]}: all labels, the highest score first."""
        chosen = options or self.options

        def decode(item: Prepared, logits: np.ndarray) -> Record:
            scores = self._scores(combine_windows(logits, chosen.combine), chosen)
            order = np.argsort(-scores, kind="stable").tolist()
            return {"labels": [{"label": self.config.id2label[i], "score": float(scores[i])} for i in order]}

        return to_records(prepared, outputs, decode)

    def __call__(self, examples: Sequence[object], options: TextClassificationOptions | None = None) -> list[Record]:
        """Records of the same length and order as the examples."""
        prepared = self.preprocess(examples, options)
        return self.postprocess(prepared, self.forward(prepared), options)

    def _scores(self, logits: np.ndarray, options: TextClassificationOptions) -> np.ndarray:
        function: str | None = options.function_to_apply
        if function is None:
            problem_type = self.config.problem_type
            if problem_type == "regression":
                function = "none"
            elif problem_type == "multi_label_classification" or self.config.num_labels == 1:
                function = "sigmoid"
            else:
                function = "softmax"
        if function == "softmax":
            return softmax(logits)
        if function == "sigmoid":
            return np.asarray(0.5 + 0.5 * np.tanh(0.5 * logits))  # the logistic function, without overflow
        return logits


def combine_windows(logits: np.ndarray, combine: Combine) -> np.ndarray:
    """(windows, labels) -> (labels,), the mean or the maximum over the windows."""
    return np.asarray(logits.mean(axis=0) if combine == "mean" else logits.max(axis=0))


def _texts_of(example: object) -> NamedTexts:
    if not isinstance(example, Mapping):
        return single_text(example)
    names = ("text", "text_pair") if "text_pair" in example else ("text",)
    return list(zip(names, fields(example, *names), strict=True))
