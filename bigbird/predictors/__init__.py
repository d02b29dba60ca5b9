"""Examples in, records out: one predictor a task, of the same length and order, errors in place.

Decoding of model outputs into records lives here alone; jobs and servers only call. What each task reads and
writes is said in its own file.
"""

import os
from collections.abc import Sequence
from typing import Any, Protocol

import torch

from bigbird.checkpoint import load_model
from bigbird.config import BigBirdConfig
from bigbird.errors import CheckpointError, InputError
from bigbird.inference import Precision, prepare_for_inference
from bigbird.predictors.embedding import FeatureExtractionOptions, FeatureExtractionPredictor
from bigbird.predictors.examples import Failed, Prepared, Record
from bigbird.predictors.fill_mask import FillMaskOptions, FillMaskPredictor
from bigbird.predictors.masked_lm_scoring import MaskedLMScoringOptions, MaskedLMScoringPredictor
from bigbird.predictors.multiple_choice import MultipleChoiceOptions, MultipleChoicePredictor
from bigbird.predictors.question_answering import QuestionAnsweringOptions, QuestionAnsweringPredictor
from bigbird.predictors.text_classification import TextClassificationOptions, TextClassificationPredictor
from bigbird.predictors.text_generation import TextGenerationOptions, TextGenerationPredictor
from bigbird.predictors.token_classification import TokenClassificationOptions, TokenClassificationPredictor
from bigbird.predictors.windows import LengthOptions
from bigbird.pretrained import load_config
from bigbird.tokenizer import BigBirdTokenizer

__all__ = [
    "HEADS",
    "OPTIONS",
    "TASKS",
    "Failed",
    "FeatureExtractionOptions",
    "FeatureExtractionPredictor",
    "FillMaskOptions",
    "FillMaskPredictor",
    "LengthOptions",
    "MaskedLMScoringOptions",
    "MaskedLMScoringPredictor",
    "MultipleChoiceOptions",
    "MultipleChoicePredictor",
    "Predictor",
    "Prepared",
    "QuestionAnsweringOptions",
    "QuestionAnsweringPredictor",
    "Record",
    "TextClassificationOptions",
    "TextClassificationPredictor",
    "TextGenerationOptions",
    "TextGenerationPredictor",
    "TokenClassificationOptions",
    "TokenClassificationPredictor",
    "load_predictor",
]


class Predictor(Protocol):
    """What the predictor of every task does. Built with a model, or without for preprocess and postprocess alone."""

    task: str
    options: Any
    tokenizer: BigBirdTokenizer
    config: BigBirdConfig
    max_tokens_per_batch: int

    def preprocess(self, examples: Sequence[Any], options: Any = None) -> list[Any]:
        """Tokenize and cut; one prepared example, or Failed, for each. Pure CPU, needs no weights; picklable."""
        ...

    def forward(self, prepared: Sequence[Any]) -> list[Any]:
        """Run the model in micro-batches of at most max_tokens_per_batch; numpy outputs, None for a Failed."""
        ...

    def postprocess(self, prepared: Sequence[Any], outputs: Sequence[Any], options: Any = None) -> list[Record]:
        """Records. Good ones have num_tokens, num_windows and truncated; bad ones {"error": {"type", "message"}}."""
        ...

    def __call__(self, examples: Sequence[Any], options: Any = None) -> list[Record]:
        """The three in a row. Options given here are for this call, in the place of the predictor's own."""
        ...


_PREDICTORS: dict[str, tuple[Any, Any, tuple[str, ...]]] = {
    "fill-mask": (FillMaskPredictor, FillMaskOptions, ("BigBirdForMaskedLM", "BigBirdForPreTraining")),
    "masked-lm-scoring": (
        MaskedLMScoringPredictor,
        MaskedLMScoringOptions,
        ("BigBirdForMaskedLM", "BigBirdForPreTraining"),
    ),
    "token-classification": (
        TokenClassificationPredictor,
        TokenClassificationOptions,
        ("BigBirdForTokenClassification",),
    ),
    "text-classification": (
        TextClassificationPredictor,
        TextClassificationOptions,
        ("BigBirdForSequenceClassification",),
    ),
    "multiple-choice": (MultipleChoicePredictor, MultipleChoiceOptions, ("BigBirdForMultipleChoice",)),
    "question-answering": (
        QuestionAnsweringPredictor,
        QuestionAnsweringOptions,
        ("BigBirdForQuestionAnswering",),
    ),
    "feature-extraction": (FeatureExtractionPredictor, FeatureExtractionOptions, ()),
    "text-generation": (TextGenerationPredictor, TextGenerationOptions, ("BigBirdForCausalLM",)),
}
TASKS = tuple(_PREDICTORS)
OPTIONS: dict[str, Any] = {task: options for task, (_, options, _) in _PREDICTORS.items()}
"""The options dataclass of each task."""
HEADS: dict[str, tuple[str, ...]] = {task: heads for task, (_, _, heads) in _PREDICTORS.items()}
"""The architectures that do each task; () where any encoder does."""


def load_predictor(
    task: str,
    dir_or_hub_id: str | os.PathLike[str],
    *,
    device: torch.device | str = "cpu",
    dtype: Precision = "float32",
    max_tokens_per_batch: int | None = None,
    options: Any = None,
    weights: bool = True,
) -> Predictor:
    """A checkpoint ready to turn examples of a task into records.

    dtype: "float32", "bfloat16" or "int8", see prepare_for_inference. max_tokens_per_batch: tokens the encoder
    reads at once; None is 16,384 on a CPU and 65,536 on a GPU. options: the task's options (`OPTIONS[task]`), which
    a call may replace. weights: False reads no weights, for preprocess and postprocess on other processes.

    Raises InputError for an unknown task, options of another task or beyond the model; CheckpointError for a
    checkpoint without the task's head, or what loading it raises.
    """
    if task not in _PREDICTORS:
        raise InputError(f"task {task!r} is not known; the tasks are {', '.join(TASKS)}")
    predictor_class, options_class, heads = _PREDICTORS[task]
    if options is not None and not isinstance(options, options_class):
        raise InputError(f"options for {task} are {type(options).__name__}, expected {options_class.__name__}")
    if max_tokens_per_batch is not None and max_tokens_per_batch < 1:
        raise InputError(f"max_tokens_per_batch is {max_tokens_per_batch}, expected at least 1")
    config = load_config(dir_or_hub_id)
    if heads and not set(heads) & set(config.architectures):
        found = " and ".join(config.architectures) or "no architecture"
        raise CheckpointError(f"{task} needs a checkpoint of {' or '.join(heads)}; {dir_or_hub_id} has {found}")
    if isinstance(options, LengthOptions):
        options.length_limit(config.max_position_embeddings)
    tokenizer = BigBirdTokenizer.from_pretrained(dir_or_hub_id)
    model = None
    if weights:
        model = prepare_for_inference(load_model(dir_or_hub_id, dtype="float32", device=device), dtype=dtype)
        config = model.config
    predictor: Predictor = predictor_class(
        tokenizer, config, model, options=options, max_tokens_per_batch=max_tokens_per_batch
    )
    return predictor
