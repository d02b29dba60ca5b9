"""What tests of the endpoints send, and how they compare answers."""

import httpx
import pytest

LONG = "Long documents are read in blocks. Paris is the capital of France; Zürich lies on a lake. " * 60
TEXT = "Paris is the capital of France; Zürich lies on a lake. 東京"
INPUTS = {
    "fill-mask": ["Paris is [MASK] capital of [MASK].", "Long [MASK] are read. " + LONG],
    "masked-lm-scoring": [TEXT, LONG],
    "feature-extraction": [TEXT, LONG],
    "token-classification": [TEXT, LONG],
    "text-classification": [TEXT, {"text": TEXT, "text_pair": "a lake"}, LONG],
    "zero-shot-classification": [TEXT, LONG],
    "multiple-choice": [{"prompt": TEXT, "choices": ["a lake", "the capital", "blocks"]}],
    "question-answering": [{"question": "Which capital?", "context": TEXT}, {"question": "What?", "context": LONG}],
}
PARAMETERS = {"zero-shot-classification": {"candidate_labels": ["a lake", "a capital"]}}


def post(url, path, body, **options):
    return httpx.post(url + path, json=body, timeout=90, **options)


def close(left, right):
    """Equal, numbers to 1e-4: a batch of other lengths adds in another order."""
    if isinstance(left, dict):
        return isinstance(right, dict) and left.keys() == right.keys() and all(close(left[k], right[k]) for k in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(close(a, b) for a, b in zip(left, right, strict=True))
    if isinstance(left, float):
        return left == pytest.approx(right, rel=1e-4, abs=1e-5)
    return left == right
