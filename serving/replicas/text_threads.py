"""Threads for what is done with texts beside the model: tokenizing, and making records."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from serving.texts import num_characters

# Some tens of milliseconds of tokenizing.
_PIECE_CHARACTERS = 64 * 1024
# Less work than handing it to a thread and waking up again.
_AT_ONCE_CHARACTERS = 512
# Tokens that cutting a text may add to it, at most; where there are spaces a cut lies at one and adds one or two.
_TOKENS_A_CUT = 16
_MAX_WORD_CHARACTERS = 1024


class TextThreads:
    """Two threads: one for short texts, one for long ones, so that a short text never waits for a long one."""

    def __init__(self) -> None:
        self._short = ThreadPoolExecutor(1, thread_name_prefix="text")
        self._long = ThreadPoolExecutor(1, thread_name_prefix="long-text")

    async def run(
        self,
        inputs: Sequence[Any],
        function: Callable[..., Any],
        *arguments: Any,
        changes: Mapping[str, Any] | None = None,
    ) -> Any:
        """`function(*arguments)` on the thread for `inputs`, and at once where they are tiny. Cancelled while it waits,
        it never runs.

        changes: options that the request sets. Of a tiny input they may make much work: many labels, many results.
        """
        total = num_characters([*inputs, changes or {}])
        if total <= _AT_ONCE_CHARACTERS and not changes:
            return function(*arguments)
        thread = self._long if total > _PIECE_CHARACTERS else self._short
        return await asyncio.get_running_loop().run_in_executor(thread, function, *arguments)

    async def tokens_at_least(self, text: str, tokenizer: Any, limit: int) -> int:
        """Tokens that a text has at least, counted until there are more than `limit`.

        A tokenizer cannot be stopped within one call, and a character may be three tokens: this counts piece by piece,
        so that it ends at the limit and where it is cancelled. 0 for a text too short to have more.
        """
        if len(text) <= _PIECE_CHARACTERS or len(text.encode("utf-8", "surrogatepass")) <= limit:
            return 0
        total = 0
        for part in _parts(text):
            number = await asyncio.get_running_loop().run_in_executor(self._long, _num_tokens, tokenizer, part)
            total += max(0, number - _TOKENS_A_CUT)
            if total > limit:
                break
        return total


def _num_tokens(tokenizer: Any, text: str) -> int:
    try:
        return len(tokenizer.encode_batch(text, add_special_tokens=False))
    except Exception:  # whoever reads the whole text says what is wrong with it
        return 0


def texts_of(value: Any) -> Iterator[str]:
    """All texts in an input."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from texts_of(item)


def _parts(text: str) -> Iterator[str]:
    """A text in parts of a limited number of characters, cut before a space where one is near."""
    start = 0
    while start < len(text):
        stop = start + _PIECE_CHARACTERS
        if stop < len(text):
            stop = max(stop - _MAX_WORD_CHARACTERS, text.rfind(" ", start, stop))
        yield text[start:stop]
        start = stop


def pieces(inputs: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """`inputs` in order, in lists of a limited number of characters; a longer input is a list of its own."""
    start = num_before = 0
    for index, item in enumerate(inputs):
        size = num_characters(item)
        if index > start and num_before + size > _PIECE_CHARACTERS:
            yield inputs[start:index]
            start, num_before = index, 0
        num_before += size
    yield inputs[start:]
