"""Where heads have to look: for tokens of a row, the tokens they are to read. `checkpoints.guided` trains by it.

- question-answering: a name in the source reads itself in the question; a docstring's first line, the name it is of.
- token-classification: the use of a name reads its definition, whichever scope it is in.
- causal-lm: a token reads what followed the last time that it came after the token before it.

A token that finds none of it in its row reads [CLS], so that a head can say no. All of it is exact. Knows no weights.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

from bigbird.tokenizer import BigBirdTokenizer, Encoding
from checkpoints.code_entities import definitions
from checkpoints.docstrings import QUESTION
from pipelines.token_rows import TokenRow

Looks = Mapping[int, Sequence[int]]
"""A token of the row, and the tokens it is to read, all alike."""

NOWHERE = (0,)
LONGEST_LINE = 15  # of a docstring's first line so many tokens: what a predictor takes for an answer

# The heads that are told, (layer, head): one for each of what `looks_of` gives.
GUIDED = {
    "question-answering": ((1, 3), (2, 3)),
    "token-classification": ((2, 3),),
    "causal-lm": ((2, 3),),
}


def looks_of(
    task: str, document: Mapping[str, Any], rows: Sequence[TokenRow], tokenizer: BigBirdTokenizer
) -> dict[str, tuple[Looks, ...]]:
    """For the key of every row made of a document: where each of the guided heads has to look."""
    if task == "causal-lm":
        return {row.key: (after_the_same_pair(row.ids),) for row in rows}
    if task == "question-answering":
        return {row.key: names_and_docstrings(document, tokenizer) for row in rows if len(rows) == 1}
    found = {}
    known = at_definitions(document["text"], tokenizer)
    start = 0
    for row in rows:
        room = len(row.ids) - 2
        inside = {}
        for token, places in known.items():
            if start <= token < start + room:
                inside[token - start + 1] = [p - start + 1 for p in places if start <= p < start + room] or NOWHERE
        found[row.key] = (inside,)
        start += room
    return found


def after_the_same_pair(ids: Sequence[int]) -> Looks:
    """For every token but the first two: the place after the last occurrence of the pair that it ends."""
    seen: dict[tuple[int, int], int] = {}
    looks = {}
    for token in range(2, len(ids)):
        pair = (ids[token - 1], ids[token])
        looks[token] = (seen[pair] + 1,) if pair in seen else NOWHERE
        seen[pair] = token
    return looks


def names_and_docstrings(document: Mapping[str, Any], tokenizer: BigBirdTokenizer) -> tuple[Looks, Looks]:
    """A row of `checkpoints.docstrings`: what names read in the question, and what docstrings read."""
    question = tokenizer.encode(document["question"], add_special_tokens=False)
    context = tokenizer.encode(document["context"], add_special_tokens=False)
    behind = len(question.ids) + 2  # [CLS] question [SEP]
    before, after = QUESTION.split("{}")
    asked = _tokens(question, len(before), len(document["question"]) - len(after))
    same: dict[int, list[int]] = {}
    for place in asked:
        same.setdefault(question.ids[place], []).append(place + 1)
    equal: dict[int, Sequence[int]] = {
        behind + token: same.get(identity, NOWHERE) for token, identity in enumerate(context.ids)
    }
    described: dict[int, Sequence[int]] = {}
    for item in document["definitions"]:
        name = [behind + token for token in _tokens(context, item["name"], item["name_end"])]
        for token in _tokens(context, item["answer"], item["answer_end"])[:LONGEST_LINE]:
            described[behind + token] = name
    return equal, described


def at_definitions(text: str, tokenizer: BigBirdTokenizer) -> Looks:
    """For every token of a plain name that is used: the same token of its nearest definition, backwards first.

    Tokens as they stand in the text, without [CLS]; [-1] where the name is a variable or built in.
    """
    encoding = tokenizer.encode(text, add_special_tokens=False)
    looks: dict[int, Sequence[int]] = {}
    for use, defined in definitions(text).items():
        end = use
        while end < len(text) and (text[end].isalnum() or text[end] == "_"):
            end += 1
        tokens = _tokens(encoding, use, end)
        if not defined:
            looks |= dict.fromkeys(tokens, (-1,))
            continue
        nearest = max((start for start in defined if start < use), default=min(defined))
        of_definition = _tokens(encoding, nearest, nearest + end - use)
        looks |= {token: (of_definition[min(n, len(of_definition) - 1)],) for n, token in enumerate(tokens)}
    return looks


def _tokens(encoding: Encoding, start: int, end: int) -> Sequence[int]:
    """The tokens that share a character with text[start:end]."""
    return range(
        bisect_right(encoding.offsets, start, key=lambda offset: offset[1]),
        bisect_left(encoding.offsets, end, key=lambda offset: offset[0]),
    )
