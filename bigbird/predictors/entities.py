"""Token scores to entities: the aggregation strategies of transformers' token-classification pipeline, in numpy.

Reproduces `TokenClassificationPipeline` of transformers 5.23 on equal logits, for tokenizers that have no
continuation prefix (BigBird's have none): there a token belongs to the word before it when no space stands at its
first character or right before it. One strategy is ours: "words", for text whose words are not parted by spaces alone,
such as source code. Works on whole documents: nothing here loops over tokens, only over entities.
Knows nothing of models, windows or tokenizers.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

Strategy = Literal["none", "simple", "first", "average", "max", "words"]
STRATEGIES = ("none", "simple", "first", "average", "max", "words")

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Entity:
    """A run of tokens with one label.

    label: the label of a token or word ("none"), else its group: the label without its B- or I-. score: mean
    probability over the tokens (or words). words: token ranges (start, stop) of its tokens or words, in order.
    """

    label: str
    score: float
    words: tuple[tuple[int, int], ...]


class LabelSet:
    """What B- and I- in the labels mean; labels without either continue any run of the same label."""

    def __init__(self, id2label: Mapping[int, str]) -> None:
        self.names = [id2label[index] for index in range(len(id2label))]

    @cached_property
    def begins(self) -> np.ndarray:
        """(labels,) bool: the label begins a new entity even after its like."""
        return np.array([name.startswith("B-") for name in self.names])

    @cached_property
    def tags(self) -> np.ndarray:
        """(labels,) int: equal for labels that may stand in one entity."""
        tags = [name[2:] if name.startswith(("B-", "I-")) else name for name in self.names]
        return np.array([tags.index(tag) for tag in tags])

    @cached_property
    def groups(self) -> list[str]:
        """The entity_group of an entity whose first token has the label."""
        return [name.split("-", 1)[-1] for name in self.names]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis, in the type of the logits."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))


def word_starts(text: str, offsets: np.ndarray, unknown: np.ndarray) -> np.ndarray:
    """Indices of the tokens that begin a word, (words,) int.

    offsets: (tokens, 2) characters of the text. unknown: (tokens,) bool, tokens outside the vocabulary, each a word
    of its own beginning.
    """
    begin = offsets[:, 0]
    # One more False at the end stands for "past the text", and index -1 finds it for "before the text".
    spaces = np.append(np.frombuffer(text.encode("utf-32-le"), dtype="<u4") == ord(" "), False)
    starts = (begin == 0) | spaces[begin] | spaces[begin - 1] | unknown
    starts[:1] = True
    return np.flatnonzero(starts)


def inside_words(text: str) -> np.ndarray:
    """(characters + 1,) bool: a cut before the character would part a run of letters, digits and underscores."""
    inside = np.zeros(len(text) + 1, dtype=bool)
    for word in _WORD.finditer(text):
        inside[word.start() + 1 : word.end()] = True
    return inside


def name_starts(text: str, offsets: np.ndarray) -> np.ndarray:
    """As `word_starts`, for "words": a word is a run of letters, digits and underscores, or any other character.

    A token that begins where the one before it began, or before that one's end, is a further part of one character
    (bytes of an emoji, of a dash): it begins no word.
    """
    begin, end = offsets[:, 0], offsets[:, 1]
    starts = ~inside_words(text)[begin]
    starts[1:] &= (begin[1:] != begin[:-1]) & (begin[1:] >= end[:-1])
    starts[:1] = True
    return np.flatnonzero(starts)


def aggregate(
    logits: np.ndarray,
    labels: LabelSet,
    strategy: Strategy,
    starts: np.ndarray,
    ignore_labels: Sequence[str] = ("O",),
) -> list[Entity]:
    """Entities of a document, from left to right.

    logits: (tokens, labels), special tokens left out, tokens at least 1. starts: of the words, `name_starts` for
    "words" and `word_starts` for "first", "average" and "max"; the others do not read it.
    """
    scores = softmax(logits)
    num_tokens = len(scores)
    if strategy in ("none", "simple"):
        starts = np.arange(num_tokens)
    elif strategy == "first":
        scores = scores[starts]
    elif strategy in ("average", "words"):
        sizes = np.diff(starts, append=num_tokens)
        scores = np.add.reduceat(scores, starts, axis=0) / sizes[:, None].astype(scores.dtype)
    else:
        surest = scores.max(axis=1)
        peaks = np.maximum.reduceat(surest, starts)
        at_peak = np.flatnonzero(surest == np.repeat(peaks, np.diff(starts, append=num_tokens)))
        scores = scores[at_peak[np.searchsorted(at_peak, starts)]]  # the first of a word's surest tokens
    label = scores.argmax(axis=1)
    score = np.take_along_axis(scores, label[:, None], axis=1)[:, 0].astype(np.float64)
    ranges = np.stack([starts, np.append(starts[1:], num_tokens)], axis=1)
    ignored = set(ignore_labels)
    if strategy == "none":
        kept = np.flatnonzero([name not in ignored for name in labels.names])
        return [
            Entity(labels.names[label[unit]], float(score[unit]), (_pair(ranges[unit]),))
            for unit in np.flatnonzero(np.isin(label, kept))
        ]
    tags = labels.tags[label]
    opens = labels.begins[label]
    opens[0] = True
    opens[1:] |= tags[1:] != tags[:-1]
    first = np.flatnonzero(opens)
    last = np.append(first[1:], len(label))
    means = np.add.reduceat(score, first) / (last - first)
    kept = np.flatnonzero([group not in ignored for group in labels.groups])
    return [
        Entity(
            labels.groups[label[first[run]]],
            float(means[run]),
            tuple(_pair(pair) for pair in ranges[first[run] : last[run]]),
        )
        for run in np.flatnonzero(np.isin(label[first], kept))
    ]


def _pair(pair: np.ndarray) -> tuple[int, int]:
    return int(pair[0]), int(pair[1])
