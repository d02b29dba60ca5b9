"""What `from bigbird import ...` gives. `__init__.py` says where each name is, for the moment it is asked for."""

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
