"""BigBird for long documents: load a checkpoint, run it fast, turn texts into records."""

from typing import NoReturn

from bigbird.checkpoint import load_model
from bigbird.config import BigBirdConfig
from bigbird.generation.generate import generate
from bigbird.heads import (
    BigBirdForCausalLM,
    BigBirdForMaskedLM,
    BigBirdForMultipleChoice,
    BigBirdForPreTraining,
    BigBirdForQuestionAnswering,
    BigBirdForSequenceClassification,
    BigBirdForTokenClassification,
)
from bigbird.inference import prepare_for_inference
from bigbird.model import BigBirdModel
from bigbird.not_offered import advice_for
from bigbird.predictors import load_predictor
from bigbird.tokenization.batch_encoding import BatchEncoding
from bigbird.tokenization.tokenizer import BigBirdTokenizer

# The names under which transformers' examples ask for the same.
AutoTokenizer = BigBirdTokenizerFast = BigBirdTokenizer
AutoConfig = BigBirdConfig
AutoModel = BigBirdModel
AutoModelForPreTraining = BigBirdForPreTraining
AutoModelForMaskedLM = BigBirdForMaskedLM
AutoModelForCausalLM = BigBirdForCausalLM
AutoModelForSequenceClassification = BigBirdForSequenceClassification
AutoModelForMultipleChoice = BigBirdForMultipleChoice
AutoModelForTokenClassification = BigBirdForTokenClassification
AutoModelForQuestionAnswering = BigBirdForQuestionAnswering

__all__ = [
    "AutoConfig",
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoModelForMaskedLM",
    "AutoModelForMultipleChoice",
    "AutoModelForPreTraining",
    "AutoModelForQuestionAnswering",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
    "AutoTokenizer",
    "BatchEncoding",
    "BigBirdConfig",
    "BigBirdForCausalLM",
    "BigBirdForMaskedLM",
    "BigBirdForMultipleChoice",
    "BigBirdForPreTraining",
    "BigBirdForQuestionAnswering",
    "BigBirdForSequenceClassification",
    "BigBirdForTokenClassification",
    "BigBirdModel",
    "BigBirdTokenizer",
    "BigBirdTokenizerFast",
    "generate",
    "load_model",
    "load_predictor",
    "prepare_for_inference",
]


def __getattr__(name: str) -> NoReturn:
    """Names of transformers that are not offered: said with what to use, and not only that they are missing."""
    if advice := advice_for(name):
        raise ImportError(f"bigbird has no {name}: {advice}", name=__name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
