"""How much an answer may hold: what is asked for by the window or by the token is bounded before it is computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serving.errors import ServingError

# Of all inputs of a request: numbers of vectors; or windows, with their labels, answers or losses. Tens of megabytes.
MAX_NUMBERS = 4 * 2**20
MAX_WINDOWS = 10_000


def check(predictor: Any, prepared: Sequence[Any], options: Any) -> None:
    """Raises ServingError where the windows or token vectors of the prepared inputs are more than an answer may hold.

    What a task says of a document as a whole needs no bound: it does not grow with the document.
    """
    num_windows = sum(len(item.spans) for item in prepared)
    if num_windows > MAX_WINDOWS:
        raise ServingError(
            "invalid_input", f"parameters.return_windows: {num_windows} windows or more, the limit is {MAX_WINDOWS}",
            param="parameters.return_windows",
        )  # fmt: skip
    num_vectors = num_windows
    if getattr(options, "pooling", None) == "none":
        num_vectors = sum(item.num_model_tokens for item in prepared)
    limit = MAX_NUMBERS // _width(predictor, options)
    if num_vectors > limit:
        what = "windows" if num_windows else "tokens"
        raise ServingError(
            "invalid_input", f"inputs have {num_vectors} {what} or more, an answer has room for {limit}", param="inputs"
        )


def _width(predictor: Any, options: Any) -> int:
    """What the answer holds of one window or token: numbers of a vector, else records."""
    if hasattr(options, "pooling"):
        return int(predictor.config.hidden_size)
    labels = getattr(options, "candidate_labels", None) or predictor.config.id2label
    # A label or an answer is some ten times as long as a number.
    return 10 * max(1, getattr(options, "top_k", None) or len(labels))
