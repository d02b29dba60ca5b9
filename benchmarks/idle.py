"""A predictor without a model: what is left is what the job itself costs."""

import time
from collections.abc import Callable
from typing import Any

from pipelines.scoring.checks import ModelInfo


class Idle:
    """A masked-lm-scoring predictor that sleeps `seconds` a document and knows no more of it than its words."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def preprocess(self, examples: list[str], options: Any = None) -> list[int]:
        return [len(text.split()) for text in examples]

    def forward(self, prepared: list[int]) -> list[int]:
        time.sleep(self.seconds * len(prepared))
        return prepared

    def postprocess(self, prepared: list[int], outputs: list[int], options: Any = None) -> list[dict[str, Any]]:
        facts = {"num_windows": 1, "truncated": False}
        return [{"nll": 0.0, "pseudo_perplexity": 1.0, "num_tokens": count, **facts} for count in outputs]


def idle(seconds: float) -> dict[str, Callable[..., Any]]:
    return {
        "load": lambda *args, **kwargs: Idle(seconds),
        "inspect": lambda task, model, dtype: ModelInfo(digest="idle", embedding_size=1, weight_bytes=0),
    }
