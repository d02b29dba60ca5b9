"""Whether two starts are one run: what an output was begun with, and what another start would begin it with."""

import json
from collections.abc import Mapping
from typing import Any

from bigbird.errors import InputError
from pipelines.scoring.storage import Place


def refuse_differences(output: Place, begun: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises InputError naming each difference between the fingerprint an output was begun with and this start's."""
    if "library" not in begun:
        wanted = _as_version_0_1(begun, wanted)
    differing = differences(_by_score(begun), _by_score(wanted))
    if differing:
        raise InputError(
            f"output {output.name!r} was begun by another run: {differing}. Choose another directory, "
            "or --overwrite to start anew"
        )


def differences(was: Mapping[str, Any], is_: Mapping[str, Any]) -> str:
    """For a person; empty where there are none. Of JSON values, by their names."""
    names = sorted(name for name in was.keys() | is_.keys() if was.get(name) != is_.get(name))
    return "; ".join(_difference(name, was.get(name), is_.get(name)) for name in names)


def _difference(name: str, was: Any, is_: Any) -> str:
    """Of lists with other items, the items: in what is cut off of long ones, the difference might be."""
    if isinstance(was, list) and isinstance(is_, list):
        gone, came = [item for item in was if item not in is_], [item for item in is_ if item not in was]
        told = [f"{what} {_short(items)}" for what, items in (("lost", gone), ("got", came)) if items]
        if told:
            return f"{name} {' and '.join(told)}"
    return f"{name} was {_short(was)}, is {_short(is_)}"


def _by_score(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """A fingerprint in which what a score has is found by the score's name and its own."""
    flat = {key: value for key, value in fingerprint.items() if key != "scores"}
    for name, score in fingerprint.get("scores", {}).items():
        flat |= {f"{key} of {name}": value for key, value in score.items()}
    return flat


def _as_version_0_1(begun: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """A fingerprint without what version 0.1, which did not write its number, knew nothing of."""
    known = {key: value for key, value in wanted.items() if key != "library"}
    if isinstance(begun.get("task_options"), dict):
        options = wanted.get("task_options", {}).items()
        known["task_options"] = {key: value for key, value in options if key in begun["task_options"]}
    return known


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 200 else f"{text[:200]}..."
