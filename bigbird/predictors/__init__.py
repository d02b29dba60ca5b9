"""Examples in, records out: one predictor a task, of the same length and order, errors in place.

Decoding of model outputs into records lives here alone; jobs and servers only call. What each task reads and
writes is said in its own file.
"""

import os
from dataclasses import fields
from typing import Any

import torch

from bigbird.checkpoint import load_model
from bigbird.config import BigBirdConfig
from bigbird.errors import CheckpointError, InputError
from bigbird.generation.options import refuse_other_devices
from bigbird.inference import Precision, prepare_for_inference
from bigbird.loading.options import LoadOptions
from bigbird.model import BigBirdModel
from bigbird.predictors.batches import warm_up
from bigbird.predictors.embedding import FeatureExtractionOptions, FeatureExtractionPredictor
from bigbird.predictors.examples import Failed, Prepared, Record
from bigbird.predictors.fill_mask import FillMaskOptions, FillMaskPredictor
from bigbird.predictors.masked_lm_scoring import MaskedLMScoringOptions, MaskedLMScoringPredictor
from bigbird.predictors.multiple_choice import MultipleChoiceOptions, MultipleChoicePredictor
from bigbird.predictors.options import LengthOptions
from bigbird.predictors.predictor import Predictor
from bigbird.predictors.question_answering import QuestionAnsweringOptions, QuestionAnsweringPredictor
from bigbird.predictors.text_classification import TextClassificationOptions, TextClassificationPredictor
from bigbird.predictors.text_generation import TextGenerationOptions, TextGenerationPredictor
from bigbird.predictors.together import Together
from bigbird.predictors.token_classification import TokenClassificationOptions, TokenClassificationPredictor
from bigbird.predictors.zero_shot_classification import (
    ZeroShotClassificationOptions,
    ZeroShotClassificationPredictor,
)
from bigbird.tokenization.tokenizer import BigBirdTokenizer

__all__ = [
    "ALIASES",
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
    "Together",
    "TokenClassificationOptions",
    "TokenClassificationPredictor",
    "ZeroShotClassificationOptions",
    "ZeroShotClassificationPredictor",
    "load_predictor",
]


_PREDICTORS: dict[str, type[Predictor[Any, Any, Any]]] = {
    predictor.task: predictor
    for predictor in (
        FillMaskPredictor,
        MaskedLMScoringPredictor,
        TokenClassificationPredictor,
        TextClassificationPredictor,
        ZeroShotClassificationPredictor,
        MultipleChoicePredictor,
        QuestionAnsweringPredictor,
        FeatureExtractionPredictor,
        TextGenerationPredictor,
    )
}
TASKS = tuple(_PREDICTORS)
ALIASES = {"ner": "token-classification", "sentiment-analysis": "text-classification"}
"""Other names of tasks, as in transformers."""
OPTIONS: dict[str, Any] = {task: predictor.options_class for task, predictor in _PREDICTORS.items()}
"""The options dataclass of each task."""
HEADS: dict[str, tuple[str, ...]] = {task: predictor.architectures for task, predictor in _PREDICTORS.items()}
"""The architectures that do each task; () where any encoder does."""


def load_predictor(
    task: str,
    dir_or_hub_id: str | os.PathLike[str],
    *,
    dtype: Precision | torch.dtype | None = None,
    max_tokens_per_batch: int | None = None,
    options: Any = None,
    weights: bool = True,
    encoder: BigBirdModel | None = None,
    **keywords: Any,
) -> Predictor[Any, Any, Any]:
    """A checkpoint ready to turn examples of a task into records.

    task: one of `TASKS`, or of `ALIASES`.
    dtype (or torch_dtype): see prepare_for_inference; None: bfloat16 on CUDA where it is fast, else float32. On CUDA
    the encoder is compiled here, not at the first example. max_tokens_per_batch: tokens the encoder reads at once; None
    is what is fast in little memory (default_max_tokens_per_batch). options: the task's options (`OPTIONS[task]`),
    which a call may replace. weights: False reads no weights, for preprocess and postprocess on other processes.
    encoder: another predictor's, of equal weights, to be held in memory once (see prepare_for_inference).
    keywords: as of `from_pretrained`, for example device="cuda", revision or id2label.

    Raises InputError for an unknown task, text-generation elsewhere than on the CPU, options of another task or beyond
    the model; CheckpointError for a checkpoint without the task's head, or what loading it raises.
    """
    task = ALIASES.get(task, task)
    if task not in _PREDICTORS:
        raise InputError(f"task {task!r} is not known; the tasks are {', '.join(TASKS)}")
    if options is not None and not isinstance(options, OPTIONS[task]):
        raise InputError(f"options for {task} are {type(options).__name__}, expected {OPTIONS[task].__name__}")
    if max_tokens_per_batch is not None and max_tokens_per_batch < 1:
        raise InputError(f"max_tokens_per_batch is {max_tokens_per_batch}, expected at least 1")
    dtype = keywords.pop("torch_dtype", dtype)
    load, hub, changes = LoadOptions.taken_from("load_predictor", keywords)
    if task == TextGenerationPredictor.task:
        refuse_other_devices(load.place)
    fetched = {field.name: getattr(hub, field.name) for field in fields(hub)}
    if isinstance(load.config, BigBirdConfig):
        config = load.config.replace(**changes)
    else:
        # A configuration from elsewhere is read as it stands there; the options say where the checkpoint is.
        place, how = (dir_or_hub_id, fetched) if load.config is None else (load.config, {})
        config = BigBirdConfig.from_pretrained(place, **how, **changes)
    heads = HEADS[task]
    if heads and not set(heads) & set(config.architectures):
        found = " and ".join(config.architectures) or "no architecture"
        raise CheckpointError(f"{task} needs a checkpoint of {' or '.join(heads)}; {dir_or_hub_id} has {found}")
    if isinstance(options, LengthOptions):
        options.length_limit(config.max_position_embeddings)
    tokenizer = BigBirdTokenizer.from_pretrained(dir_or_hub_id, **fetched)
    model = None
    if weights:
        precision = dtype or ("auto" if load.place.type == "cuda" else "float32")
        loaded = load_model(dir_or_hub_id, dtype="float32", **keywords)
        model = prepare_for_inference(loaded, dtype=precision, encoder=encoder)
        config = model.config
        if model.device.type == "cuda" and encoder is None:
            warm_up(getattr(model, "bert", model))
    return _PREDICTORS[task](tokenizer, config, model, options=options, max_tokens_per_batch=max_tokens_per_batch)
