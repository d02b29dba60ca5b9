"""Where heads have to look: for tokens of a row, the tokens they are to read. `checkpoints.guided` trains by it.

- question-answering: a name in the source reads itself in the question; a docstring's first line, the name it is of.
- token-classification: the use of a name reads its definition, whichever scope it is in.
- causal-lm: a token reads what followed the last time that it came after the token before it.

A token that finds none of it in its row reads [CLS], so that a head can say no. All of it is exact. Knows no weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from bigbird.tokenization.tokenizer import BigBirdTokenizer
from checkpoints.code_entities import definitions
from checkpoints.docstrings import QUESTION
from checkpoints.token_labels import tokens_between
from pipelines.finetuning.token_rows import TokenRow

Looks = Mapping[int, Sequence[int]]
"""A token of the row, and the tokens it is to read, all alike."""

NOWHERE = (0,)
_NAME = re.compile(r"\w+")
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
    asked = tokens_between(question.offsets, len(before), len(document["question"]) - len(after))
    same: dict[int, list[int]] = {}
    for place in asked:
        same.setdefault(question.ids[place], []).append(place + 1)
    equal: dict[int, Sequence[int]] = {
        behind + token: same.get(identity, NOWHERE) for token, identity in enumerate(context.ids)
    }
    offsets = context.offsets
    described: dict[int, Sequence[int]] = {}
    for item in document["definitions"]:
        name = [behind + token for token in tokens_between(offsets, item["name"], item["name_end"])]
        for token in tokens_between(offsets, item["answer"], item["answer_end"])[:LONGEST_LINE]:
            described[behind + token] = name
    return equal, described


def at_definitions(text: str, tokenizer: BigBirdTokenizer) -> Looks:
    """For every token of a plain name that is used: the same token of its nearest definition, backwards first.

    Tokens as they stand in the text, without [CLS]; [-1] where the name is a variable or built in.
    """
    offsets = tokenizer.encode(text, add_special_tokens=False).offsets
    looks: dict[int, Sequence[int]] = {}
    for use, defined in definitions(text).items():
        name = _NAME.match(text, use)
        assert name is not None, "a use is a name"
        tokens = tokens_between(offsets, use, name.end())
        if not defined:
            looks |= dict.fromkeys(tokens, (-1,))
            continue
        nearest = max((start for start in defined if start < use), default=min(defined))
        of_definition = tokens_between(offsets, nearest, nearest + len(name[0]))
        looks |= {token: (of_definition[min(n, len(of_definition) - 1)],) for n, token in enumerate(tokens)}
    return looks
