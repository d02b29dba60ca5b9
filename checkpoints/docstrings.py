"""Rows for question-answering: "What does NAME do?", a stretch of Python, and the first line of NAME's docstring.

Names, docstrings and their places come from `ast` and are exact. The name is defined once in the stretch.
"""

from __future__ import annotations

import ast
import random
import warnings
from collections.abc import Iterator
from typing import Any

from checkpoints.corpus_split import Document

# characters of a stretch, and how many of a hundred have that size
SIZES = {1000: 60, 2000: 30, 4000: 7, 12000: 3}
PER_DOCUMENT = 24
ANSWER_CHARS = (10, 60)  # as long as a predictor's answers are by default: 15 tokens


def described(text: str) -> list[tuple[str, int, int, str]]:
    """Classes and functions with a docstring: name, line of the definition from 0, line of the docstring's first
    words, and those. Raises SyntaxError where `ast.parse` does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the source, such as an invalid escape: none of our business
        tree = ast.parse(text)
    lines = text.split("\n")
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and (doc := ast.get_docstring(node)):
            answer = doc.split("\n")[0].strip().rstrip(".")
            place = node.body[0].lineno - 1
            at = next((n for n in (place, place + 1) if n < len(lines) and answer in lines[n]), None)
            if at is not None and lines[at].count(answer) == 1:
                found.append((node.name, node.lineno - 1, at, answer))
    return sorted(found, key=lambda item: item[1])


def rows(document: Document, others: list[Document], draw: random.Random) -> Iterator[dict[str, Any]]:
    """`question`, `context` and `answers`."""
    if document.kind != "source" or "\r" in document.text:
        return
    try:
        known = described(document.text)
    except (SyntaxError, ValueError, RecursionError):
        return
    lines = document.text.split("\n")
    for name, definition, place, answer in draw.sample(known, min(PER_DOCUMENT, len(known))):
        size = draw.choices(list(SIZES), list(SIZES.values()))[0]
        before = draw.randrange(size)  # of the stretch's characters, how many stand before the definition
        first, last = definition, place + 1
        while first > 0 and sum(map(len, lines[first - 1 : definition])) < before:
            first -= 1
        while last < len(lines) and sum(map(len, lines[first:last])) < size:
            last += 1
        inside = [item for item in known if first <= item[1] and item[2] < last]
        alone = sum(item[0] == name for item in inside) == 1
        if alone and len(inside) > 1 and ANSWER_CHARS[0] <= len(answer) <= ANSWER_CHARS[1]:
            start = sum(len(line) + 1 for line in lines[first:place]) + lines[place].index(answer)
            yield {
                "question": f"What does {name} do?",
                "context": "\n".join(lines[first:last]),
                "answers": {"text": [answer], "answer_start": [start]},
            }
