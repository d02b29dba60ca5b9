"""Why a job stopped, for the person who started it: the first cause, where it happened, and whether to start again."""

import builtins
import os
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import ray

from pipelines.command_line import GO_ON

DEFAULT_SHARE = 0.01
FEW_ROWS = 10

# Ours that another start may be without: a disk away, a file written to or deleted while the job ran.
_PASSING = {"UnreadableInputError", "ChangedInputError", "MissingRowsError"}
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_RAISED = re.compile(r"^(?P<kind>[A-Za-z_][\w.]*): (?P<message>.*(?:\n(?!\s*File |\n).+)*)", re.MULTILINE)
# What Ray Data adds to a message: how often it tried, and which settings of its own would make it try again.
_ADVICE = re.compile(r"\s*Failed to [^\n]+ after \d+/\d+ attempts .*", re.DOTALL)


class TooManyErrorsError(Exception):
    """More rows failed in one way than the job allows."""


def explain(error: BaseException) -> list[str]:
    """Lines about what stopped a job."""
    kind, message = first_cause(error)
    lines = [f"failed: {kind}: {' '.join(message.split())}"]
    if ray.is_initialized():
        lines.append(f"log: {log_directory()}")
    if may_pass(kind):
        lines.append(GO_ON)
    return lines


def first_cause(error: BaseException) -> tuple[str, str]:
    """Kind and message of the exception that all others came from.

    Ray, and Ray Train, keep of an exception in another process little more than the traceback's text, in which the
    first cause stands above those that were raised from it.
    """
    if isinstance(error, ray.exceptions.RayError) or "Traceback (most recent call last)" in str(error):
        text = _ANSI.sub("", str(error))
        found = list(_RAISED.finditer(text.partition("\n\nThe above exception was the direct cause")[0]))
        if found:
            return found[-1]["kind"].rpartition(".")[2], _ADVICE.sub("", found[-1]["message"])
    while error.__cause__ is not None and str(error.__cause__):
        error = error.__cause__
    return type(error).__name__, str(error) or repr(error)


def may_pass(kind: str) -> bool:
    """Whether starting again may help: a node, a file or memory may be there again, a mistake stays one."""
    known = {**vars(builtins), **vars(ray.exceptions)}.get(kind)
    passing = (OSError, MemoryError, ray.exceptions.RayError)
    return kind in _PASSING or (isinstance(known, type) and issubclass(known, passing))


def log_directory() -> str:
    """Where Ray keeps what the processes of this session said."""
    node: Any = ray._private.worker._global_node
    return os.path.join(node.get_session_dir_path(), "logs")


class ErrorCount:
    """Rows that failed, by kind, over the files of an output of `rows` rows.

    share: of all rows, what may fail in one way; None for a hundredth, and ten rows in any case.
    """

    def __init__(self, share: float | None, rows: int) -> None:
        self._share = DEFAULT_SHARE if share is None else share
        self._most = max(self._share * rows, FEW_ROWS if share is None else 0)
        self._by_part: dict[str, Mapping[str, int]] = {}
        self._total: Counter[str] = Counter()

    def add(self, name: str, summary: Mapping[str, Any]) -> None:
        """Count a file, in place of what it was before. Raises TooManyErrorsError once there are too many."""
        found = summary.get("errors", {})
        self._total.subtract(self._by_part.get(name, {}))
        self._total.update(found)
        self._by_part[name] = found
        for kind in found:
            if self._total[kind] > self._most:
                raise TooManyErrorsError(
                    f"{self._total[kind]:,} rows failed with {kind}, more than --max-error-share {self._share:g} "
                    f"allows; {summary.get('first_errors', {}).get(kind, 'none of them is named')}. "
                    "With a larger share, the next start goes on from here"
                )
