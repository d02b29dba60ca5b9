"""A checkpoint as the predictor of a task: `load_predictor`."""

import os
from dataclasses import fields
from typing import Any

import torch

from bigbird.checkpoint import load_model
from bigbird.config import BigBirdConfig
from bigbird.inference import Precision, prepare_for_inference
from bigbird.loading.options import LoadOptions
from bigbird.model import BigBirdModel
from bigbird.predictors.batches import warm_up
from bigbird.predictors.embedding import FeatureExtractionPredictor
from bigbird.predictors.fill_mask import FillMaskPredictor
from bigbird.predictors.masked_lm_scoring import MaskedLMScoringPredictor
from bigbird.predictors.multiple_choice import MultipleChoicePredictor
from bigbird.predictors.predictor import Predictor
from bigbird.predictors.question_answering import QuestionAnsweringPredictor
from bigbird.predictors.tasks import check_call, check_checkpoint
from bigbird.predictors.text_classification import TextClassificationPredictor
from bigbird.predictors.text_generation import TextGenerationPredictor
from bigbird.predictors.token_classification import TokenClassificationPredictor
from bigbird.predictors.zero_shot_classification import ZeroShotClassificationPredictor
from bigbird.tokenization.tokenizer import BigBirdTokenizer

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
    dtype = keywords.pop("torch_dtype", dtype)
    load, hub, changes = LoadOptions.taken_from("load_predictor", keywords)
    task = check_call(task, options, max_tokens_per_batch, load.place)
    fetched = {field.name: getattr(hub, field.name) for field in fields(hub)}
    if isinstance(load.config, BigBirdConfig):
        config = load.config.replace(**changes)
    else:
        # A configuration from elsewhere is read as it stands there; the options say where the checkpoint is.
        place, how = (dir_or_hub_id, fetched) if load.config is None else (load.config, {})
        config = BigBirdConfig.from_pretrained(place, **how, **changes)
    check_checkpoint(task, dir_or_hub_id, config, options)
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
