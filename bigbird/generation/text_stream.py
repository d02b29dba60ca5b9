"""From tokens, one at a time, to pieces of text that are final: no half characters, no half stop strings.

The pieces put together are the tokens' text. Knows nothing of models; of the tokenizer it needs `decode` and `len`.
"""

from collections.abc import Sequence
from typing import Protocol

_REPLACEMENT = "\ufffd"
_LONGEST_INCOMPLETE = 3
"""Tokens that can be a character's bytes without being a character yet; decoders show those as U+FFFD, one or more."""
_CONTEXT_TOKENS = 8


class Tokenizer(Protocol):
    """What generation needs of a tokenizer; BigBirdTokenizer has it."""

    @property
    def cls_token_id(self) -> int: ...
    @property
    def sep_token_id(self) -> int: ...
    def __len__(self) -> int: ...
    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...
    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = False) -> str: ...


class TextStream:
    """The text of one continuation.

    prompt_ids: the tokens before the first; the last few give it context, since tokenizers drop a space that begins
    a text. stop: strings that end the text.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int], stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._num_known = len(tokenizer)
        self._stop = stop
        self._window: list[int] = []  # tokens decoded together: context, then what is not final
        for num_context in range(_CONTEXT_TOKENS, _CONTEXT_TOKENS + _LONGEST_INCOMPLETE + 1):
            self._window = list(prompt_ids[-num_context:])
            if _REPLACEMENT not in self._decode():  # else it may begin within a character
                break
        text = self._decode()
        self._num_final = len(text.rstrip(_REPLACEMENT))  # characters of the window's text already handed on
        # Tokens since the context was last trimmed; tokens pushed since the text last ended with a whole character.
        self._num_recent = len(self._window) if text.endswith(_REPLACEMENT) else 0
        self._num_pending = 0
        self._held = ""  # final text that may turn out to begin a stop string
        self.stopped = False

    def push(self, token: int) -> str:
        """The text that has become final with this token, possibly empty. Sets `stopped` at a stop string."""
        if token >= self._num_known:  # models may have more rows than there are tokens
            return ""
        self._window.append(token)
        self._num_recent += 1
        self._num_pending += 1
        text = self._decode()
        final = text.rstrip(_REPLACEMENT)
        if self._num_pending > _LONGEST_INCOMPLETE:  # no character takes so many tokens: the text itself is like this
            final = text[: max(len(final), len(text) - _LONGEST_INCOMPLETE)]
        fresh = final[self._num_final :]
        self._num_final = max(self._num_final, len(final))
        if final == text:
            self._num_pending = 0
            self._forget()
        return self._release(fresh)

    def finish(self) -> str:
        """What is left when no token follows; an unfinished character shows as U+FFFD."""
        rest = "" if self.stopped else self._release(self._decode()[self._num_final :])
        return rest if self.stopped else rest + self._held

    def _decode(self) -> str:
        return self._tokenizer.decode(self._window, skip_special_tokens=True)

    def _forget(self) -> None:
        """Keep only the newest tokens as context, so that a token costs the same however long the text is."""
        recent = self._tokenizer.decode(self._window[-self._num_recent :], skip_special_tokens=True)
        if recent:  # else the tokenizer would take the next token for the beginning of a text
            self._window = self._window[-self._num_recent :]
            self._num_final = len(recent)
            self._num_recent = 0

    def _release(self, fresh: str) -> str:
        """Text that no stop string can begin in any more, up to the first stop string."""
        text = self._held + fresh
        found = [place for place in (text.find(stop) for stop in self._stop) if place >= 0]
        if found:
            self.stopped = True
            return text[: min(found)]
        begun = (size for stop in self._stop for size in range(1, len(stop)) if text.endswith(stop[:size]))
        num_final = len(text) - max(begun, default=0)
        self._held = text[num_final:]
        return text[:num_final]
