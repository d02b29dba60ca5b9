"""What `from bigbird.predictors import ...` gives. `__init__.py` says where each name is."""

from bigbird.predictors.embedding import FeatureExtractionPredictor
from bigbird.predictors.examples import Failed, Prepared, Record
from bigbird.predictors.fill_mask import FillMaskPredictor
from bigbird.predictors.load import load_predictor
from bigbird.predictors.masked_lm_scoring import MaskedLMScoringPredictor
from bigbird.predictors.multiple_choice import MultipleChoicePredictor
from bigbird.predictors.options import LengthOptions
from bigbird.predictors.predictor import Predictor
from bigbird.predictors.question_answering import QuestionAnsweringPredictor
from bigbird.predictors.tasks import (
    ALIASES,
    HEADS,
    OPTIONS,
    TASKS,
    FeatureExtractionOptions,
    FillMaskOptions,
    MaskedLMScoringOptions,
    MultipleChoiceOptions,
    QuestionAnsweringOptions,
    TextClassificationOptions,
    TextGenerationOptions,
    TokenClassificationOptions,
    ZeroShotClassificationOptions,
)
from bigbird.predictors.text_classification import TextClassificationPredictor
from bigbird.predictors.text_generation import TextGenerationPredictor
from bigbird.predictors.together import Together
from bigbird.predictors.token_classification import TokenClassificationPredictor
from bigbird.predictors.zero_shot_classification import ZeroShotClassificationPredictor

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
