"""Rows for text-classification: a passage of Python in which one line is [MASK], and the kind of statement it was.

The label comes from `ast` and is exact. Of a statement that has a body, only the line that opens it is hidden. The
passage goes some lines back and fewer forward, as whole lines; the hidden line keeps its indentation.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator
from typing import Any

from examples.demo_family.corpus_split import Document, parse

MASK = "[MASK]"
KINDS: dict[str, tuple[type[ast.stmt], ...]] = {
    "assignment": (ast.Assign, ast.AugAssign, ast.AnnAssign),
    "loop": (ast.For, ast.While),
    "definition": (ast.FunctionDef, ast.ClassDef),
    "import": (ast.Import, ast.ImportFrom),
    "return": (ast.Return,),
    "raise": (ast.Raise,),
    "if": (ast.If,),
    "try": (ast.Try,),
}
CHARS_BEFORE, CHARS_AFTER = 500, 300
PER_KIND = 2  # of one document, at most: else assignments would be half of all rows


def kind_of(statement: ast.stmt) -> str | None:
    """The label of a statement, None for what has none."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        return "call"
    return next((kind for kind, types in KINDS.items() if type(statement) in types), None)


def opening_lines(text: str) -> list[tuple[int, str]]:
    """Every statement with a label that stands on one line, or opens a body on one: its line, from 0, and label.

    Raises SyntaxError where `ast.parse` does.
    """
    tree = parse(text)
    lines = text.split("\n")
    found = []
    starts = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.stmt)]
    for node in ast.walk(tree):
        if not isinstance(node, ast.stmt) or not (label := kind_of(node)):
            continue
        body = getattr(node, "body", None)
        whole = node.end_lineno == node.lineno or (body and lines[node.lineno - 1].rstrip().endswith(":"))
        if whole and starts.count(node.lineno) == 1:
            found.append((node.lineno - 1, label))
    return sorted(found)


def passage(lines: list[str], number: int) -> str:
    """The lines around line `number`, itself hidden."""
    first = last = number
    while first > 0 and sum(map(len, lines[first - 1 : number])) < CHARS_BEFORE:
        first -= 1
    while last + 1 < len(lines) and sum(map(len, lines[number + 1 : last + 2])) < CHARS_AFTER:
        last += 1
    line = lines[number]
    hidden = line[: len(line) - len(line.lstrip())] + MASK
    return "\n".join([*lines[first:number], hidden, *lines[number + 1 : last + 1]])


def rows(document: Document, others: list[Document], draw: random.Random) -> Iterator[dict[str, Any]]:
    """`text` and `label`, a few of each label."""
    if document.kind != "source" or "\r" in document.text:
        return
    try:
        statements = opening_lines(document.text)
    except (SyntaxError, ValueError, RecursionError):
        return
    lines = document.text.split("\n")
    draw.shuffle(statements)
    taken: dict[str, int] = {}
    for number, label in statements:
        taken[label] = taken.get(label, 0) + 1
        if taken[label] <= PER_KIND and MASK not in lines[number]:
            yield {"text": passage(lines, number), "label": label}
