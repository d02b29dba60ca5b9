"""Rows for question-answering: "What does NAME do?", a stretch of Python, and the first line of NAME's docstring.

Names, docstrings and their places come from `ast` and are exact. The name is defined once in the stretch.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

from examples.demo_family.corpus_split import Document, parse

QUESTION = "What does {} do?"
# characters of a stretch, and how many of a hundred have that size
SIZES = {1000: 40, 2000: 30, 4000: 18, 12000: 12}
PER_DOCUMENT = 24
ANSWER_CHARS = (10, 60)  # as long as a predictor's answers are by default: 15 tokens


class Described(NamedTuple):
    """A class or function with a docstring. Lines count from 0."""

    name: str
    line: int
    answer_line: int
    answer: str


def described(text: str) -> list[Described]:
    """Classes and functions with a docstring, in order. Raises SyntaxError where `ast.parse` does."""
    tree = parse(text)
    lines = text.split("\n")
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and (doc := ast.get_docstring(node)):
            answer = doc.split("\n")[0].strip().rstrip(".")
            place = node.body[0].lineno - 1
            at = next((n for n in (place, place + 1) if n < len(lines) and answer in lines[n]), None)
            if at is not None and lines[at].count(answer) == 1:
                found.append(Described(node.name, node.lineno - 1, at, answer))
    return sorted(found, key=lambda item: item.line)


def rows(document: Document, others: list[Document], draw: random.Random) -> Iterator[dict[str, Any]]:
    """`question`, `context`, `answers`."""
    if document.kind != "source" or "\r" in document.text:
        return
    try:
        known = described(document.text)
    except (SyntaxError, ValueError, RecursionError):
        return
    lines = document.text.split("\n")
    for asked in draw.sample(known, min(PER_DOCUMENT, len(known))):
        size = draw.choices(list(SIZES), list(SIZES.values()))[0]
        before = draw.randrange(size)  # of the stretch's characters, how many stand before the definition
        first, last = asked.line, asked.answer_line + 1
        while first > 0 and sum(map(len, lines[first - 1 : asked.line])) < before:
            first -= 1
        while last < len(lines) and sum(map(len, lines[first:last])) < size:
            last += 1
        inside = [item for item in known if first <= item.line and item.answer_line < last]
        alone = sum(item.name == asked.name for item in inside) == 1
        if alone and len(inside) > 1 and ANSWER_CHARS[0] <= len(asked.answer) <= ANSWER_CHARS[1]:
            start = sum(len(line) + 1 for line in lines[first : asked.answer_line])
            start += lines[asked.answer_line].index(asked.answer)
            yield {
                "question": QUESTION.format(asked.name),
                "context": "\n".join(lines[first:last]),
                "answers": {"text": [asked.answer], "answer_start": [start]},
            }
