"""Rows that every task can be scored on, and a checkpoint and options for each: what tests of scoring share."""

import pyarrow as pa

import bigbird

HEAD = {
    "fill-mask": bigbird.BigBirdForMaskedLM,
    "masked-lm-scoring": bigbird.BigBirdForMaskedLM,
    "token-classification": bigbird.BigBirdForTokenClassification,
    "text-classification": bigbird.BigBirdForSequenceClassification,
    "zero-shot-classification": bigbird.BigBirdForSequenceClassification,
    "multiple-choice": bigbird.BigBirdForMultipleChoice,
    "question-answering": bigbird.BigBirdForQuestionAnswering,
    "feature-extraction": bigbird.BigBirdForMaskedLM,
    "text-generation": bigbird.BigBirdForCausalLM,
}
TEXTS = [
    "Paris is the [MASK] of France; Zürich lies on a [MASK].",
    None,
    "",
    "  \n ",
    "long documents are read in blocks [MASK] " * 90,
    "😀 emoji [MASK] שלום nul \0 byte",
    "naïve",
]
TABLE = pa.table(
    {
        "id": range(len(TEXTS)),
        "text": TEXTS,
        "pair": ["another text"] * len(TEXTS),
        "question": ["Where is Paris?"] * len(TEXTS),
        "context": TEXTS,
        "prompt": TEXTS,
        "choices": [["one", "another choice"], ["one"], [], None, ["a", "b", "c"], ["a", None], ["x"]],
    }
)
OPTIONS_OF = {
    "text-generation": {"max_new_tokens": 4},
    "zero-shot-classification": {"candidate_labels": ("city", "lake")},
    "fill-mask": {"return_sequence": True, "targets": ("a", "e")},
    "question-answering": {"top_k": 3, "return_windows": True},
    "text-classification": {"return_windows": True, "max_length": 40},
    "masked-lm-scoring": {"return_windows": True, "max_length": 40},
    "feature-extraction": {"pooling": "none"},
}
CONFIG_OF = {
    "text-generation": {"is_decoder": True},
    "zero-shot-classification": {"id2label": {0: "entailment", 1: "contradiction"}},
}


class Refusing:
    """Raises for batches that hold a bad row, as a bug in a predictor would; counts the calls."""

    def __init__(self, bad):
        self.bad, self.calls = bad, 0

    def preprocess(self, rows, options=None):
        return list(rows)

    def forward(self, prepared):
        self.calls += 1
        if self.bad & set(prepared):
            raise ArithmeticError(f"{len(prepared)} rows")
        return prepared

    def postprocess(self, prepared, outputs, options=None):
        return [{"nll": float(row), "num_tokens": 1} for row in outputs]
