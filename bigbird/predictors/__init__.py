"""Examples in, records out: one predictor a task, of the same length and order, errors in place.

Decoding of model outputs into records lives here alone; jobs and servers only call. What each task reads and
writes is said in its own file, what it takes for options in `tasks`.

As in `bigbird`, a name is imported when it is first asked for: what only reads options needs no torch. `__init__.pyi`
tells type checkers the same.
"""

from typing import Any

from bigbird.lazy_names import asked_for

_MODULES = {
    "embedding": ["FeatureExtractionPredictor"],
    "examples": ["Failed", "Prepared", "Record"],
    "fill_mask": ["FillMaskPredictor"],
    "load": ["load_predictor"],
    "masked_lm_scoring": ["MaskedLMScoringPredictor"],
    "multiple_choice": ["MultipleChoicePredictor"],
    "options": ["LengthOptions"],
    "predictor": ["Predictor"],
    "question_answering": ["QuestionAnsweringPredictor"],
    "tasks": [
        "ALIASES",
        "HEADS",
        "OPTIONS",
        "TASKS",
        "FeatureExtractionOptions",
        "FillMaskOptions",
        "MaskedLMScoringOptions",
        "MultipleChoiceOptions",
        "QuestionAnsweringOptions",
        "TextClassificationOptions",
        "TextGenerationOptions",
        "TokenClassificationOptions",
        "ZeroShotClassificationOptions",
    ],
    "text_classification": ["TextClassificationPredictor"],
    "text_generation": ["TextGenerationPredictor"],
    "together": ["Together"],
    "token_classification": ["TokenClassificationPredictor"],
    "zero_shot_classification": ["ZeroShotClassificationPredictor"],
}
_PLACES = {name: f"{__name__}.{module}" for module, names in _MODULES.items() for name in names}

__all__ = sorted(_PLACES)


def __getattr__(name: str) -> Any:
    """A public name or a module."""
    return asked_for(__name__, _PLACES, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
