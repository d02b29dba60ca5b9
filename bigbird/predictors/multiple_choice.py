"""multiple-choice: a prompt and its choices in; a score for each choice, and the best, out.

A long prompt is cut into the same windows for all its choices, so that they are judged by the same text.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from bigbird.errors import InputError
from bigbird.packing import PackedBatch
from bigbird.predictors.entities import softmax
from bigbird.predictors.examples import NamedTexts, Prepared, Record, Row, fields, pair_row
from bigbird.predictors.predictor import EncoderPredictor
from bigbird.predictors.tasks import MultipleChoiceOptions
from bigbird.predictors.text_classification import combine_windows
from bigbird.predictors.texts import TokenizedText
from bigbird.predictors.windows import cut_document, num_doubled


class MultipleChoicePredictor(EncoderPredictor[MultipleChoiceOptions, Prepared, np.ndarray]):
    """Predictor for BigBirdForMultipleChoice. An example: a mapping with prompt (a string) and choices (strings)."""

    task = "multiple-choice"
    example_fields = ("prompt", "choices")

    @staticmethod
    def texts_of(example: Any) -> NamedTexts:
        prompt, choices = fields(example, "prompt", "choices")
        if isinstance(choices, str) or not isinstance(choices, Sequence | np.ndarray):
            raise InputError(f"choices is of type {type(choices).__name__}, expected a list of strings")
        if len(choices) == 0:
            raise InputError("choices has 0 strings, expected at least one")
        return [("prompt", prompt), *((f"choices[{index}]", choice) for index, choice in enumerate(choices))]

    def build(self, texts: list[TokenizedText], options: MultipleChoiceOptions) -> Prepared:
        """Cut the prompt into windows and pair each with every choice."""
        limit = options.length_limit(self.config.max_position_embeddings)
        prompt, *choices = texts
        longest = max(len(choice) for choice in choices)
        windows, truncated = cut_document(len(prompt), limit - 3 - longest, options, what="prompt")
        kept = windows[-1].stop
        num_choice_tokens = sum(len(choice) for choice in choices)
        num_read = kept * len(choices) + num_choice_tokens * len(windows)
        if num_read > options.max_tokens_per_document:
            raise InputError(
                f"a prompt of {kept} tokens in {len(windows)} windows, read with each of {len(choices)} choices, "
                f"makes {num_read} tokens, more than max_tokens_per_document={options.max_tokens_per_document}"
            )
        return Prepared(
            rows=tuple(
                pair_row(self.tokenizer, prompt.ids[window.start : window.stop], choice.ids)
                for window in windows
                for choice in choices
            ),
            num_tokens=kept + num_choice_tokens,
            num_windows=len(windows),
            truncated=truncated,
            num_lost=len(prompt) - kept,
            num_doubled=num_doubled(windows),
        )

    def read(self, states: Tensor, packed: PackedBatch, rows: list[Row]) -> tuple[Tensor]:
        pooled = self.model.bert.pool(states[packed.first_tokens])
        return (self.model.classifier(pooled)[:, 0].float(),)

    def gather(self, item: Prepared, logits: list[np.ndarray]) -> np.ndarray:
        """The logits of the choices, (windows, choices) float32."""
        return np.stack(logits).reshape(item.num_windows, -1)

    def decode(self, item: Prepared, logits: np.ndarray, options: MultipleChoiceOptions) -> Record:
        """{"choices": [probability, ...] in the order given, "best": index of the highest}."""
        scores = softmax(combine_windows(logits, options.combine))
        return {"choices": scores.tolist(), "best": int(scores.argmax())}
