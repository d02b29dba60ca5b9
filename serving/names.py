"""Names of heads, routes and pools, and places of checkpoints: how they are given, and which cannot be."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# A name is a label of metrics, a part of paths and the name of a deployment.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
GATEWAY = "gateway"


def read_heads(text: str) -> dict[str, Any]:
    """Heads by name from JSON, or from `task=checkpoint,name:task=checkpoint`. Raises ValueError for a name twice."""
    if text.lstrip().startswith("{"):
        return dict(json.loads(text, object_pairs_hook=_distinct))
    return _distinct([_pair(part) for part in text.split(",")])


def check_name(kind: str, name: str, *others: Mapping[str, Any]) -> None:
    """Raises ValueError for what cannot be the name of a `kind`; others: what has its names already."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{kind} {name[:100]!r}: a name has 1 to 63 letters, digits and .-_ and begins with a letter or digit"
        )
    if name == GATEWAY:
        raise ValueError(f"{kind} {name!r}: that is the gateway's own name")
    if any(name in taken for taken in others):
        raise ValueError(f"{kind} {name}: something else has this name")


def absolute(checkpoint: str) -> str:
    """A local checkpoint as an absolute path, because replicas run in other directories; a hub id as it is."""
    path = Path(checkpoint)
    return str(path.resolve()) if path.exists() else checkpoint


def _pair(text: str) -> tuple[str, Any]:
    left, separator, checkpoint = text.partition("=")
    if not separator or not checkpoint:
        raise ValueError(f"{text!r} is not of the form task=checkpoint or name:task=checkpoint")
    name, _, task = left.strip().partition(":")
    return name, {"checkpoint": checkpoint.strip(), **({"task": task} if task else {})}


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    for name, number in Counter(name for name, _ in pairs).items():
        if number > 1:
            raise ValueError(f"{name!r} is given {number} times")
    return dict(pairs)
