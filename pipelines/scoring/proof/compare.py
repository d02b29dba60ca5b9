"""Two records of a row, compared: numbers within a tolerance, everything else exactly.

Lists of labels, tokens or answers with scores are compared by what they name, not by their order: two that are
as likely may change places.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

TOLERANCES = {"float32": 1e-4, "bfloat16": 5e-2, "float16": 2e-2, "int8": 5e-2, "auto": 5e-2}
"""By the model's dtype: how far two numbers may be apart, as a share of the larger one, or of 1 where that is less."""

Difference = tuple[str, Any, Any]
"""Where in the record, what is in the output, and what was found."""

_NAMES = ("label", "token")


def differences(stored: Any, found: Any, tolerance: float, where: str) -> list[Difference]:
    """What differs between a value of the output and what was found for it. `found` may leave fields of structs out."""
    if isinstance(stored, Mapping) and isinstance(found, Mapping):
        both = [name for name in stored if name in found]
        return [one for name in both for one in differences(stored[name], found[name], tolerance, f"{where}.{name}")]
    if isinstance(stored, list) and isinstance(found, list):
        if len(stored) != len(found):
            return [(where, f"{len(stored)} items", f"{len(found)} items")]
        pairs = zip(*_in_one_order(stored, found, tolerance), strict=True)
        each = [differences(one, other, tolerance, f"{where}[{index}]") for index, (one, other) in enumerate(pairs)]
        return [one for found_here in each for one in found_here]
    numbers = (int, float)
    if isinstance(stored, float) and isinstance(found, numbers) and not isinstance(found, bool):
        close = math.isclose(stored, found, rel_tol=tolerance, abs_tol=tolerance)
        return [] if close or (math.isnan(stored) and math.isnan(found)) else [(where, stored, found)]
    return [] if stored == found else [(where, stored, found)]


def _in_one_order(stored: Sequence[Any], found: Sequence[Any], tolerance: float) -> tuple[list[Any], list[Any]]:
    """Both by name, where items have names and scores. Left out: what only one has and is as likely as the last."""
    name = next((name for name in _NAMES if all(_named(item, name) for item in (*stored, *found))), None)
    if name is None:
        return list(stored), list(found)
    others = {item[name]: item for item in found}
    known = {item[name] for item in stored}
    alone = [item for item in found if item[name] not in known]
    last = min((item["score"] for item in (*stored, *found)), default=0.0)
    left, right = [], []
    for item in stored:
        other = others.get(item[name])
        if other is None:
            other = alone.pop(0) if alone else item | {name: None}
            if abs(item["score"] - last) <= tolerance and abs(other["score"] - last) <= tolerance:
                continue  # at the end of the list one of several that are as likely
        left.append(item)
        right.append(other)
    return left, right


def _named(item: Any, name: str) -> bool:
    return isinstance(item, Mapping) and name in item and "score" in item
