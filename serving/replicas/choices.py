"""One continuation of one prompt on its way: what the engine says of it becomes pieces of a completion's choice.

It knows OpenAI's choices with their log-probabilities, and the engine's events; not who asks, or how.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from serving.replicas.engine_loop import EngineLoop
from serving.replicas.token_names import Beginnings, TokenNames


@dataclass(frozen=True)
class Prompt:
    """Token ids, their text, and where in it each of them begins, where that was asked for.

    num_added: tokens at the beginning that the client did not send.
    """

    ids: list[int]
    text: str = ""
    begins: Sequence[int] = ()
    num_added: int = 0


class Choice:
    """echo: the choice begins with the prompt. logprobs: whether it shows those of its tokens."""

    def __init__(
        self, index: int, prompt: Prompt, options: Any, tokenizer: Any, names: TokenNames, *, echo: bool, logprobs: bool
    ) -> None:
        self.index = index
        self.prompt = prompt
        self.num_tokens = 0
        self.decode_s = 0.0  # from the first token to the last
        self.sum_logprobs = 0.0
        self._first_token_at: float | None = None
        self._options = options
        self._names = names
        self._logprobs = logprobs
        self._echo = echo
        # Where each token begins, also one whose text waits, since a stop string may begin in it.
        self._num_final = len(prompt.text) if echo else 0
        self._beginnings = Beginnings(tokenizer, names, prompt.ids, self._num_final)
        self._waiting: list[tuple[int, Any]] = []  # begin, event

    @property
    def begins_at_once(self) -> bool:
        """Whether its text begins with the prompt before the engine has read that."""
        return self._echo and not self._logprobs

    @property
    def needs_engine(self) -> bool:
        return bool(self._options.max_new_tokens) or (self._echo and self._logprobs)

    def begin(self) -> dict[str, Any]:
        """The first piece, of a choice that begins at once; all of it where the engine has nothing to do."""
        logprobs = empty_logprobs() if self._logprobs and not self.needs_engine else None
        text = self.prompt.text if self._echo else ""
        return self.body(text, logprobs, None if self.needs_engine else "length")

    async def read(self, loop: EngineLoop, merged: asyncio.Queue[tuple[Choice, Any]]) -> None:
        """Puts the engine's events into `merged`, and what it raises."""
        try:
            async for event in loop.generate(self.prompt.ids, self._options):
                merged.put_nowait((self, event))
        except Exception as error:
            merged.put_nowait((self, error))

    def take(self, event: Any) -> dict[str, Any] | None:
        """The piece this event makes, or None while its text is not final: its log-probability waits for it."""
        if event.token_id is not None:
            now = time.monotonic()
            self._first_token_at = self._first_token_at or now
            self.decode_s = now - self._first_token_at
            self.num_tokens += 1
            self.sum_logprobs += event.logprob or 0.0
            if self._logprobs:
                self._waiting.append((self._beginnings.of(event.token_id), event))
        text = event.text
        logprobs = empty_logprobs()
        if event.prompt_logprobs is not None:
            text = self.prompt.text + text
            self._add_prompt(logprobs, event.prompt_logprobs)
        elif not text and event.finish_reason is None:
            return None
        self._num_final += len(event.text)
        while self._waiting and (event.finish_reason is not None or self._waiting[0][0] < self._num_final):
            begin, item = self._waiting.pop(0)
            _add(logprobs, self._names, item.token_id, item.logprob, item.top_logprobs, min(begin, self._num_final))
        return self.body(text, logprobs if self._logprobs else None, event.finish_reason)

    def body(
        self, text: str, logprobs: dict[str, Any] | None = None, finish_reason: str | None = None
    ) -> dict[str, Any]:
        return {"index": self.index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}

    def _add_prompt(self, logprobs: dict[str, Any], scored: Sequence[Any]) -> None:
        """The prompt's own tokens, the first without a log-probability, as OpenAI has it. scored: ids[1:]."""
        first = self.prompt.num_added
        for place in range(first, len(self.prompt.ids)):
            logprob, top = (scored[place - 1].logprob, scored[place - 1].top) if place > first else (None, ())
            _add(logprobs, self._names, self.prompt.ids[place], logprob, top, self.prompt.begins[place])


def empty_logprobs() -> dict[str, Any]:
    return {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}


def _add(
    logprobs: dict[str, Any],
    names: TokenNames,
    token: int,
    logprob: float | None,
    top: Sequence[tuple[int, float]],
    begin: int,
) -> None:
    logprobs["tokens"].append(names.name(token))
    logprobs["token_logprobs"].append(logprob)
    logprobs["top_logprobs"].append(None if logprob is None else names.likeliest(token, logprob, top))
    logprobs["text_offset"].append(begin)


def join(whole: dict[str, Any], piece: dict[str, Any]) -> None:
    """Adds a piece to the choice it belongs to."""
    whole["text"] += piece["text"]
    whole["finish_reason"] = piece["finish_reason"]
    if piece["logprobs"] is not None:
        whole["logprobs"] = whole["logprobs"] or empty_logprobs()
        for name, values in piece["logprobs"].items():
            whole["logprobs"][name] += values


def usage(choices: Sequence[Choice], num_copies: int) -> dict[str, int]:
    """Tokens read and generated; a prompt counts once, however many continuations it got."""
    prompt_tokens = sum(len(choice.prompt.ids) for choice in choices[::num_copies])
    completion_tokens = sum(choice.num_tokens for choice in choices)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
