"""Rows of at most so many tokens, and what was cut off as rows of their own, by transformers' rules.

Knows tokens of the tokenizers library; nothing of texts or special tokens' names.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tokenizers

from bigbird.errors import InputError
from bigbird.tokenization.arguments import check_at_least


@dataclass(frozen=True, kw_only=True)
class Truncation:
    """strategy: None for none. limit: tokens of a row, special tokens counted; None for any number.

    stride: tokens that a row of what was cut off shares with the row before. side: "left" or "right".
    """

    strategy: str | None
    limit: int | None
    stride: int
    side: str

    def __post_init__(self) -> None:
        check_at_least("stride", self.stride, 0)


def encoded(
    tokenizer: tokenizers.Tokenizer, texts: Sequence[Any], in_words: bool, add_special_tokens: bool
) -> list[tokenizers.Encoding]:
    """Each text or pair as tokens. Raises InputError naming the first one that the tokenizer cannot take."""
    try:
        return tokenizer.encode_batch(texts, is_pretokenized=in_words, add_special_tokens=add_special_tokens)
    except Exception as error:  # the tokenizers library raises bare Exception, for example without an unknown token
        if len(texts) == 1:
            raise InputError(f"text[0]: cannot be tokenized: {error}") from error
    for index, text in enumerate(texts):
        try:
            encoded(tokenizer, [text], in_words, add_special_tokens)
        except InputError as error:
            raise InputError(str(error).replace("text[0]", f"text[{index}]", 1)) from error
    raise AssertionError("texts that fail together fail alone")


def truncated(
    tokenizer: tokenizers.Tokenizer,
    inputs: Sequence[tuple[Any, ...]],
    in_words: bool,
    add_special_tokens: bool,
    cut: Truncation,
) -> list[tokenizers.Encoding]:
    """Each item's row of at most cut.limit tokens, the rows of what was cut off as its `overflowing`.

    inputs: one text or two an item. Raises InputError for an item that cannot be cut so.
    """
    assert cut.limit is not None
    flat = [part for parts in inputs for part in parts]
    tokens = iter(encoded(tokenizer, flat, in_words, add_special_tokens=False))
    rows = []
    for index, item in enumerate(inputs):
        parts = [next(tokens) for _ in item]
        special = tokenizer.num_special_tokens_to_add(len(parts) == 2) if add_special_tokens else 0
        lengths = [len(part) for part in parts]
        limits = _limits(lengths, cut.limit - special, cut.strategy)
        if limits is None:
            raise InputError(f"text[{index}]: cannot be cut to max_length {cut.limit} with truncation {cut.strategy!r}")
        for part, length, limit in zip(parts, lengths, limits, strict=True):
            if length > limit > 0 and cut.stride >= limit:
                raise InputError(f"stride is {cut.stride}, expected less than the {limit} tokens a row has room for")
            part.truncate(limit, stride=cut.stride, direction=cut.side)
        pair = parts[1] if len(parts) == 2 else None
        rows.append(tokenizer.post_process(parts[0], pair, add_special_tokens))
    return rows


def _limits(lengths: list[int], room: int, strategy: str | None) -> list[int] | None:
    """Tokens each text keeps so that all fit in `room`, by transformers' rules; None when it cannot be done."""
    excess = sum(lengths) - room
    if excess <= 0:
        return lengths
    if strategy in ("only_first", "only_second"):
        cut = int(strategy == "only_second")
        if cut >= len(lengths) or lengths[cut] <= excess:
            return None
        return [length - excess if index == cut else length for index, length in enumerate(lengths)]
    if room < 0:
        return None
    if len(lengths) == 1:
        return [room]
    # longest_first: the longer text gives first; once both are equal they share, and the longer has the odd one.
    short = min(lengths)
    kept = [short, room - short] if 2 * short <= room else [room // 2, room - room // 2]
    return kept[::-1] if lengths[0] > lengths[1] else kept
