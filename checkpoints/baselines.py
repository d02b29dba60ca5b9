"""What needs no model: the baselines the heads' figures stand beside. Each learns from the training rows at most.

Majority and chance are said by `pipelines.finetuning.metrics` itself.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from checkpoints.hidden_lines import MASK

_WORD = re.compile(r"[A-Za-z]+|\d+|[^\w\s]")
_DOCSTRING = re.compile(r'^[ \t]*[rR]?(?:"""|\'\'\')[ \t]*\n?[ \t]*(\S[^\n]*?)\.?(?:"""|\'\'\')?$', re.MULTILINE)
Rows = Sequence[Mapping[str, Any]]


def words(text: str) -> list[str]:
    """Lower-case words, numbers and signs; names are taken apart at underscores."""
    return _WORD.findall(text.lower())


def bag_of_words(train: Rows, rows: Rows, vocab_size: int = 8000, epochs: int = 60) -> list[str]:
    """The labels a logistic regression over the words of a text gives; rows have `text` and `label`."""
    counts = Counter(word for row in train for word in set(words(row["text"])))
    index = {word: number for number, (word, _) in enumerate(counts.most_common(vocab_size))}
    labels = sorted({row["label"] for row in train})

    def features(some: Rows) -> torch.Tensor:
        bags = torch.zeros(len(some), len(index))
        for number, row in enumerate(some):
            bags[number, [index[word] for word in set(words(row["text"])) if word in index]] = 1
        return bags / bags.norm(dim=1, keepdim=True).clamp(min=1)

    torch.manual_seed(0)
    bags, truth = features(train), torch.tensor([labels.index(row["label"]) for row in train])
    layer = torch.nn.Linear(len(index), len(labels))
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05, weight_decay=1e-5)
    for _ in range(epochs):
        optimizer.zero_grad()
        cross_entropy(layer(bags), truth).backward()
        optimizer.step()
    return [labels[number] for number in layer(features(rows)).argmax(dim=1).tolist()]


def neighbouring_lines(train: Rows, rows: Rows) -> list[str]:
    """The commonest label of training rows whose neighbouring lines begin alike and are indented alike."""

    def signs(text: str) -> list[tuple[object, ...]]:
        lines = [line for line in text.split("\n") if line.strip()]
        at = next(number for number, line in enumerate(lines) if line.strip() == MASK)
        depth = len(lines[at]) - len(lines[at].lstrip())
        found: list[object] = []
        for line in (lines[at - 1] if at else "", lines[at + 1] if at + 1 < len(lines) else ""):
            deeper = len(line) - len(line.lstrip()) - depth
            found.append(((words(line) or [""])[0], (deeper > 0) - (deeper < 0), line.rstrip()[-1:]))
        return [tuple(found), (found[1],), (found[1][1:],), ()]  # type: ignore[index]  # from exact to anything

    tables: dict[tuple[object, ...], Counter[str]] = {}
    for row in train:
        for sign in signs(row["text"]):
            tables.setdefault(sign, Counter())[row["label"]] += 1
    return [next(tables[s] for s in signs(row["text"]) if s in tables).most_common(1)[0][0] for row in rows]


def common_words(rows: Rows) -> list[int]:
    """Of each row's choices the one that has the largest share of its words in common with the prompt."""
    best = []
    for row in rows:
        known = set(words(row["prompt"]))
        shares = [len(known & (own := set(words(choice)))) / max(1, len(own)) for choice in row["choices"]]
        best.append(int(np.argmax(shares)))
    return best


def docstring_lines(rows: Rows, *, by_name: bool) -> list[str]:
    """The first docstring's first line; or, `by_name`, that of the docstring with most words of the question."""
    found = []
    for row in rows:
        lines = [match[1].strip() for match in _DOCSTRING.finditer(row["context"])] or [""]
        asked = set(words(row["question"])) - {"what", "does", "do", "?"}
        found.append(max(lines, key=lambda line: len(asked & set(words(line)))) if by_name else lines[0])
    return found


def bigram_nll(train: Iterable[Sequence[int]], rows: Iterable[Sequence[int]], vocab_size: int) -> tuple[float, float]:
    """Nats a token of the best mixture of what follows a token, and of single tokens; and of single tokens alone."""
    stream = np.concatenate([np.asarray(row) for row in train]).astype(np.int64)
    single = np.bincount(stream, minlength=vocab_size) + 1.0
    before = np.bincount(stream[:-1], minlength=vocab_size)
    pairs, times = np.unique(stream[:-1] * vocab_size + stream[1:], return_counts=True)
    first, second = (
        np.concatenate(part) for part in zip(*[(r[:-1], r[1:]) for r in map(np.asarray, rows)], strict=True)
    )
    keys = first.astype(np.int64) * vocab_size + second
    place = np.minimum(np.searchsorted(pairs, keys), len(pairs) - 1)
    after = np.where(pairs[place] == keys, times[place], 0) / np.maximum(1, before[first])
    alone = single[second] / single.sum()
    mixtures = [-np.log(share * after + (1 - share) * alone).mean() for share in (0.5, 0.6, 0.7, 0.8, 0.9)]
    return float(min(mixtures)), float(-np.log(alone).mean())
