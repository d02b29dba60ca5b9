"""BigBird for long documents: load a checkpoint, run it fast, turn texts into records.

A name is imported when it is first asked for, so that what needs no model does not wait seconds for torch.
`__init__.pyi` tells type checkers the same.
"""

from typing import Any

from bigbird.lazy_names import asked_for
from bigbird.not_offered import advice_for

_MODULES = {
    "bigbird.checkpoint": ["load_model"],
    "bigbird.config": ["BigBirdConfig"],
    "bigbird.generation.generate": ["generate"],
    "bigbird.heads": [
        "BigBirdForCausalLM",
        "BigBirdForMaskedLM",
        "BigBirdForMultipleChoice",
        "BigBirdForPreTraining",
        "BigBirdForQuestionAnswering",
        "BigBirdForSequenceClassification",
        "BigBirdForTokenClassification",
    ],
    "bigbird.inference": ["prepare_for_inference"],
    "bigbird.model": ["BigBirdModel"],
    "bigbird.predictors": ["load_predictor"],
    "bigbird.tokenization.batch_encoding": ["BatchEncoding"],
    "bigbird.tokenization.tokenizer": ["BigBirdTokenizer"],
}
# The names under which transformers' examples ask for the same.
_ALIASES = {
    "AutoConfig": "BigBirdConfig",
    "AutoModel": "BigBirdModel",
    "AutoModelForCausalLM": "BigBirdForCausalLM",
    "AutoModelForMaskedLM": "BigBirdForMaskedLM",
    "AutoModelForMultipleChoice": "BigBirdForMultipleChoice",
    "AutoModelForPreTraining": "BigBirdForPreTraining",
    "AutoModelForQuestionAnswering": "BigBirdForQuestionAnswering",
    "AutoModelForSequenceClassification": "BigBirdForSequenceClassification",
    "AutoModelForTokenClassification": "BigBirdForTokenClassification",
    "AutoTokenizer": "BigBirdTokenizer",
    "BigBirdTokenizerFast": "BigBirdTokenizer",
}
_PLACES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted([*_PLACES, *_ALIASES])


def __getattr__(name: str) -> Any:
    """A public name or a module. Names of transformers that are not offered: an ImportError with what to use."""
    known = _ALIASES.get(name, name)
    if known not in _PLACES and (advice := advice_for(name)):
        raise ImportError(f"bigbird has no {name}: {advice}", name=__name__)
    return asked_for(__name__, _PLACES, known)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
