"""BigBird for long documents: load a checkpoint, run it fast, turn texts into records."""

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
from bigbird.predictors import load_predictor
from bigbird.tokenization.batch_encoding import BatchEncoding
from bigbird.tokenization.tokenizer import BigBirdTokenizer

# The names under which transformers' examples ask for the tokenizer.
AutoTokenizer = BigBirdTokenizerFast = BigBirdTokenizer

__all__ = [
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
