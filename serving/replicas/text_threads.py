"""Threads for what is done with texts beside the model: tokenizing, and making records."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from serving.texts import num_characters

# Some tens of milliseconds of tokenizing.
_PIECE_CHARACTERS = 64 * 1024


class TextThreads:
    """Two threads: one for short texts, one for long ones, so that a short text never waits for a long one."""

    def __init__(self) -> None:
        self._short = ThreadPoolExecutor(1, thread_name_prefix="text")
        self._long = ThreadPoolExecutor(1, thread_name_prefix="long-text")

    async def run(self, inputs: Sequence[Any], function: Callable[..., Any], *arguments: Any) -> Any:
        """`function(*arguments)` on the thread for `inputs`. Cancelled while it waits, it never runs."""
        is_long = sum(map(num_characters, inputs)) > _PIECE_CHARACTERS
        return await asyncio.get_running_loop().run_in_executor(
            self._long if is_long else self._short, function, *arguments
        )


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
