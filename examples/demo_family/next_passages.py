"""Rows for multiple-choice: a passage, and four that may follow it: the one that does, and three from elsewhere.

The wrong ones stand elsewhere in the same document, for those of another one can be told by their words alone. All
are whole lines.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from examples.demo_family.corpus_split import Document

PROMPT_CHARS, CHOICE_CHARS = 480, 140
PER_DOCUMENT = 4


def stretch(lines: list[str], first: int, num_chars: int) -> tuple[str, int]:
    """Whole lines from line `first` on until they have `num_chars`, and the line behind them."""
    last, size = first, 0
    while last < len(lines) and size < num_chars:
        size += len(lines[last])
        last += 1
    return "".join(lines[first:last]), last


def rows(document: Document, others: list[Document], draw: random.Random) -> Iterator[dict[str, Any]]:
    """`prompt`, `choices` and `label`, the place of the right one."""
    lines = document.text.splitlines(keepends=True)
    if len(document.text) < 6 * PROMPT_CHARS or max(map(len, lines)) > CHOICE_CHARS:
        return
    for _ in range(PER_DOCUMENT):
        first = draw.randrange(len(lines))
        prompt, middle = stretch(lines, first, PROMPT_CHARS)
        right, last = stretch(lines, middle, CHOICE_CHARS)
        choices = []
        for _ in range(20):
            place = draw.randrange(len(lines))
            choice, end = stretch(lines, place, CHOICE_CHARS)
            if (end <= first or place >= last) and len(choices) < 3:
                choices.append(choice)
        texts = [right, *choices]
        if (
            len(texts) == 4
            and len({text.strip() for text in texts}) == 4
            and all(len(text.strip()) > CHOICE_CHARS // 2 and len(text) < 2 * CHOICE_CHARS for text in texts)
        ):
            order = draw.sample(range(4), 4)
            yield {"prompt": prompt, "choices": [texts[place] for place in order], "label": order.index(0)}
