"""Texts, and settings of a tokenizer, that comparisons with transformers' tokenizers share."""

from tiny_predictors import SPECIAL_ROLES

TEXTS = ["the microsoft company", "met", "where Angela [MASK] met the microsoft company in Z\u00fcrich , today ."]
PAIRS = ["a value", "the caf\u00e9 in Z\u00fcrich where numpy met Angela", "x"]
WORDS = [["the", "microsoft", "company"], ["Angela"], ["met", "np,", "in", "Z\u00fcrich"]]
SETTINGS = {**SPECIAL_ROLES, "model_max_length": 12}
