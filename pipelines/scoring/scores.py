"""What rows are scored by: one task and model, or several at once, each under a name.

Knows how they are written on a command line; nothing of how they are computed.
"""

import dataclasses
import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bigbird.errors import InputError
from bigbird.predictors import OPTIONS
from pipelines.scoring.checks import parse_options
from pipelines.scoring.schemas import InputColumns

FORM = "NAME=TASK:MODEL[:option=value,...]"

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_BEFORE_OPTIONS = re.compile(r":(?=[A-Za-z_]\w*=)")
_BETWEEN_OPTIONS = re.compile(r",(?=[A-Za-z_]\w*=)")


@dataclass(frozen=True, kw_only=True)
class Score:
    """A task with its model, and the task's options dataclass of `bigbird.predictors` (None: its defaults).

    name: what the score's columns begin with, and an underscore; "" for the only score of rows, which needs none.
    """

    task: str
    model: str
    name: str = ""
    options: Any = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", os.fspath(self.model))

    @property
    def prefix(self) -> str:
        """What stands before the names of the score's columns."""
        return f"{self.name}_" if self.name else ""

    @property
    def title(self) -> str:
        """How a person is told of it."""
        return f"{self.name}={self.task}" if self.name else self.task

    @staticmethod
    def parse(text: str) -> "Score":
        """A score from `NAME=TASK:MODEL[:option=value,...]`. MODEL may have colons, a value commas.

        Raises InputError for another form, an unknown task or option, or a value of another type.
        """
        name, equals, rest = text.partition("=")
        task, colon, rest = rest.partition(":")
        model, *options = _BEFORE_OPTIONS.split(rest, maxsplit=1)
        if not (equals and colon and model):
            raise InputError(f"score {text!r}: expected {FORM}")
        InputColumns().of_task(task)  # refuses an unknown task
        last = model.rpartition(":")[2]
        if last in {field.name for field in dataclasses.fields(OPTIONS[task])}:
            raise InputError(f"score {text!r}: option {last} has no value; expected {last}=VALUE")
        assignments: list[str] = []
        for part in _BETWEEN_OPTIONS.split(options[0]) if options else ():
            if assignments and _is_open(assignments[-1]):
                assignments[-1] += f",{part}"
            else:
                assignments.append(part)
        return Score(name=name, task=task, model=model, options=parse_options(OPTIONS[task], assignments))


def _is_open(assignment: str) -> bool:
    """Whether a value is the beginning of a JSON list, whose strings may have commas and equal signs."""
    value = assignment.partition("=")[2]
    try:
        return value.startswith("[") and not json.loads(value)
    except ValueError:
        return True


def scores_of(task: str | None, model: str | None, options: Any, scores: Sequence[Score]) -> tuple[Score, ...]:
    """The scores that are asked for: `scores`, or the one of `task`, `model` and the task's `options`.

    Raises InputError for neither or both, and for names that are none, or are there twice.
    """
    if not scores:
        if not task or not model:
            raise InputError("what to score by is missing: a task and a model, or scores")
        return (Score(task=task, model=model, options=options),)
    given = [what for what, value in (("task", task), ("model", model), ("options of a task", options)) if value]
    if given:
        raise InputError(f"{' and '.join(given)} together with scores: each score has its own")
    for score in scores:
        if not _NAME.fullmatch(score.name):
            raise InputError(f"score name {score.name!r}: expected a letter, then letters, digits and underscores")
    for name, count in Counter(score.name.lower() for score in scores).items():
        if count > 1:
            raise InputError(f"score name {name!r} is there {count} times; each score needs its own, in whatever case")
    return tuple(scores)
