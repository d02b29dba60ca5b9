"""multiple-choice: a prompt and its choices in; a score for each choice, and the best, out.

A long prompt is cut into the same windows for all its choices, so that they are judged by the same text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any

import numpy as np
from torch import Tensor

from bigbird.config import BigBirdConfig
from bigbird.errors import InputError
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
)
from bigbird.predictors.text_classification import Combine, combine_windows
from bigbird.predictors.windows import LengthOptions, plan, require_choice
from bigbird.tokenizer import BigBirdTokenizer


@dataclass(frozen=True, kw_only=True)
class MultipleChoiceOptions(LengthOptions):
    """Lengths, and how the logits of a long prompt's windows become one for each choice: "mean" or "max".

    max_tokens_per_document counts the prompt once for every choice, as the model reads it.
    """

    combine: Combine = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("combine", self.combine, ("mean", "max"))


class MultipleChoicePredictor:
    """Predictor for BigBirdForMultipleChoice; `model` None leaves only preprocess and postprocess."""

    task = "multiple-choice"

    def __init__(
        self,
        tokenizer: BigBirdTokenizer,
        config: BigBirdConfig,
        model: Any = None,
        *,
        options: MultipleChoiceOptions | None = None,
        max_tokens_per_batch: int | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.config = config
        self.model = model
        self.options = options or MultipleChoiceOptions()
        self.max_tokens_per_batch = max_tokens_per_batch or default_max_tokens_per_batch(model)

    def preprocess(
        self, examples: Sequence[object], options: MultipleChoiceOptions | None = None
    ) -> list[Prepared | Failed]:
        """Tokenize and pair. An example is a mapping with prompt (a string) and choices (a list of strings)."""
        chosen = options or self.options

        def build(texts: list[TokenizedText]) -> Prepared:
            limit = chosen.length_limit(self.config.max_position_embeddings)
            prompt, *choices = texts
            longest = max(len(choice) for choice in choices)
            windows, truncated = plan(len(prompt), limit - 3 - longest, chosen, what="prompt")
            kept = windows[-1].stop
            num_choice_tokens = sum(len(choice) for choice in choices)
            num_read = kept * len(choices) + num_choice_tokens * len(windows)
            if num_read > chosen.max_tokens_per_document:
                raise InputError(
                    f"a prompt of {kept} tokens in {len(windows)} windows, read with each of {len(choices)} choices, "
                    f"makes {num_read} tokens, more than max_tokens_per_document={chosen.max_tokens_per_document}"
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
            )

        return prepare(
            examples,
            tokenizer=self.tokenizer,
            vocab_size=self.config.vocab_size,
            options=chosen,
            texts_of=_texts_of,
            build=build,
        )

    def forward(self, prepared: Sequence[Prepared | Failed]) -> list[np.ndarray | None]:
        """Logits of each document's choices, (windows, choices) float32; None for a Failed."""

        def read(states: Tensor, packed: PackedBatch, rows: list[Row]) -> list[np.ndarray]:
            pooled = self.model.bert.pool(states[packed.first_tokens])
            return list(self.model.classifier(pooled)[:, 0].float().cpu().numpy())

        def gather(item: Prepared, logits: list[np.ndarray]) -> np.ndarray:
            return np.stack(logits).reshape(item.num_windows, -1)

        run = partial(encode_rows, self.model.bert, self.max_tokens_per_batch, read)
        return forward_examples(prepared, attrgetter("rows"), run, gather)

    def postprocess(
        self,
        prepared: Sequence[Prepared | Failed],
        outputs: Sequence[np.ndarray | None],
        options: MultipleChoiceOptions | None = None,
    ) -> list[Record]:
        """{"choices": [probability, ...] in the order given, "best": index of the highest}."""
        chosen = options or self.options

        def decode(item: Prepared, logits: np.ndarray) -> Record:
            scores = softmax(combine_windows(logits, chosen.combine))
            return {"choices": scores.tolist(), "best": int(scores.argmax())}

        return to_records(prepared, outputs, decode)

    def __call__(self, examples: Sequence[object], options: MultipleChoiceOptions | None = None) -> list[Record]:
        """Records of the same length and order as the examples."""
        prepared = self.preprocess(examples, options)
        return self.postprocess(prepared, self.forward(prepared), options)


def _texts_of(example: object) -> NamedTexts:
    prompt, choices = fields(example, "prompt", "choices")
    if isinstance(choices, str) or not isinstance(choices, Sequence | np.ndarray):
        raise InputError(f"choices is of type {type(choices).__name__}, expected a list of strings")
    if len(choices) == 0:
        raise InputError("choices has 0 strings, expected at least one")
    return [("prompt", prompt), *((f"choices[{index}]", choice) for index, choice in enumerate(choices))]
