"""How much text an input holds, as it comes from the wire."""

from __future__ import annotations

from typing import Any


def num_characters(value: Any) -> int:
    """Characters of all texts in an input, which is a text, token ids or fields of them; a token id counts as one."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(num_characters, value.values()))
    return sum(map(num_characters, value)) if isinstance(value, list | tuple) else 1
