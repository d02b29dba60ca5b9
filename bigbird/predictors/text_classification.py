"""text-classification: a text, or a pair of texts, in; every label with its score out.

Knows how the windows of a long document become one set of logits, and logits become scores.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from bigbird.packing import PackedBatch
from bigbird.predictors.entities import softmax
from bigbird.predictors.examples import NamedTexts, Prepared, Record, Row, fields, pair_row, spans, window_rows
from bigbird.predictors.predictor import EncoderPredictor
from bigbird.predictors.tasks import Combine, TextClassificationOptions
from bigbird.predictors.texts import TokenizedText
from bigbird.predictors.windows import cut_document, num_doubled


class TextClassificationPredictor(EncoderPredictor[TextClassificationOptions, Prepared, np.ndarray]):
    """Predictor for BigBirdForSequenceClassification. An example is a text, or a mapping with text and text_pair."""

    task = "text-classification"
    example_fields = ("text", "text_pair")

    @staticmethod
    def texts_of(example: Any) -> NamedTexts:
        if not isinstance(example, Mapping):
            return [("text", example)]
        names = ("text", "text_pair") if "text_pair" in example else ("text",)
        return list(zip(names, fields(example, *names), strict=True))

    def build(self, texts: list[TokenizedText], options: TextClassificationOptions) -> Prepared:
        """Cut into windows.

        Of a pair that is too long the longer text is cut (the first where both are as long), and the other stands
        whole in every window.
        """
        limit = options.length_limit(self.config.max_position_embeddings)
        if len(texts) == 1:
            (text,) = texts
            windows, truncated = cut_document(len(text), limit - 2, options, what="text")
            rows = window_rows(self.tokenizer, text, windows)
            long, kept = text, windows[-1].stop
        else:
            first, second = texts
            cut_first = len(first) >= len(second)
            long, whole = (first, second) if cut_first else (second, first)
            what = "text" if cut_first else "text_pair"
            windows, truncated = cut_document(len(long), limit - 3 - len(whole), options, what=what)
            parts = [long.ids[window.start : window.stop] for window in windows]
            rows = tuple(
                pair_row(self.tokenizer, *((part, whole.ids) if cut_first else (whole.ids, part))) for part in parts
            )
            kept = windows[-1].stop + len(whole)
        return Prepared(
            rows=rows,
            num_tokens=kept,
            num_windows=len(windows),
            truncated=truncated,
            num_lost=len(long) - windows[-1].stop,
            num_doubled=num_doubled(windows),
            spans=spans(long, windows, options),
        )

    def read(self, states: Tensor, packed: PackedBatch, rows: list[Row]) -> tuple[Tensor]:
        return (self.model.classifier(states[packed.first_tokens]).float(),)

    def gather(self, item: Prepared, logits: list[np.ndarray]) -> np.ndarray:
        """The logits of the document's windows, (windows, num_labels) float32."""
        return np.stack(logits)

    def decode(self, item: Prepared, logits: np.ndarray, options: TextClassificationOptions) -> Record:
        """{"labels": [{"label", "score"}, ...]}: all labels or the first top_k, the highest score first."""
        return self._ranked(combine_windows(logits, options.combine), options)

    def decode_windows(self, item: Prepared, logits: np.ndarray, options: TextClassificationOptions) -> list[Record]:
        """The labels of each window by itself."""
        return [self._ranked(window, options) for window in logits]

    def _ranked(self, logits: np.ndarray, options: TextClassificationOptions) -> Record:
        names = [self.config.id2label[index] for index in range(len(logits))]
        return {"labels": ranked(self._scores(logits, options), names)[: options.top_k]}

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


def ranked(scores: np.ndarray, labels: Sequence[str]) -> list[Record]:
    """Each label with its score, the highest first; equal ones in their own order."""
    return [{"label": labels[i], "score": float(scores[i])} for i in np.argsort(-scores, kind="stable").tolist()]


def combine_windows(logits: np.ndarray, combine: Combine) -> np.ndarray:
    """(windows, ...) -> (...), the mean or the maximum over the windows."""
    return np.asarray(logits.mean(axis=0) if combine == "mean" else logits.max(axis=0))
