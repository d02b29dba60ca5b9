"""How OpenAI's completions spell tokens, and where in a text each of them begins.

It knows a tokenizer, not models or requests.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

_REPLACEMENT = "\ufffd"
_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")


def _byte_characters() -> dict[str, int]:
    """The characters by which byte-level vocabularies spell bytes: what prints stands for itself."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


class TokenNames:
    """Names of a tokenizer's tokens, each made once."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special = frozenset(tokenizer.all_special_ids)
        self._byte_of = _byte_characters()
        # Decoders drop the space that begins a text: a token is decoded after another one.
        self._before = list(tokenizer.encode("a", add_special_tokens=False)[-1:])
        self._text_before = self._decoded([])
        self._names: dict[int, str] = {}

    def name(self, token: int) -> str:
        """The token's text as it stands within a text, or "bytes:\\xf0" where it is no whole character."""
        if token not in self._names:
            self._names[token] = self._named(token)
        return self._names[token]

    def likeliest(self, token: int, logprob: float, top: Iterable[tuple[int, float]]) -> dict[str, float]:
        """Names and log-probabilities of the likeliest tokens, and of the token itself where it is none of them."""
        named: dict[str, float] = {}
        for other, number in (*top, (token, logprob)):
            named.setdefault(self.name(other), number)
        return named

    def _named(self, token: int) -> str:
        if token >= len(self._tokenizer):  # models may have more rows than there are tokens
            return f"token_id:{token}"
        piece = str(self._tokenizer.convert_ids_to_tokens(token))
        if token in self._special:
            return piece
        text = self._decoded([token])[len(self._text_before) :]
        if text and _REPLACEMENT not in text:
            return text
        if found := _BYTE_PIECE.fullmatch(piece):
            return f"bytes:\\x{found[1].lower()}"
        if text and all(character in self._byte_of for character in piece):
            return "bytes:" + "".join(f"\\x{self._byte_of[character]:02x}" for character in piece)
        return piece

    def _decoded(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode([*self._before, *tokens], clean_up_tokenization_spaces=False))


class Beginnings:
    """Where tokens begin in a text, in characters, one token after the other.

    prompt_ids: what stands before the first. start: where the first one begins.
    """

    def __init__(self, tokenizer: Any, names: TokenNames, prompt_ids: Sequence[int] = (), start: int = 0) -> None:
        from bigbird.generation.text_stream import TextStream

        self._stream = TextStream(tokenizer, prompt_ids)
        self._names = names
        self._end = start

    def of(self, token: int) -> int:
        """Where this token, the next one, begins; one without a whole character, where the next character does."""
        piece = self._stream.push(token)
        name = self._names.name(token)
        begin = self._end
        if piece.endswith(name):  # what stands before it is of earlier tokens that are no whole characters
            begin += len(piece) - len(name)
        self._end += len(piece)
        return begin


def beginnings(tokenizer: Any, names: TokenNames, ids: Sequence[int], text: str | None) -> list[int]:
    """Where each token begins: in `text`, which was tokenized into `ids`, or in the tokens' own text."""
    found = Beginnings(tokenizer, names)
    begins = [found.of(token) for token in ids]
    if text is None or tokenizer.decode(ids, skip_special_tokens=True) == text:
        return begins
    # The tokenizer changed the text before it cut it.
    (encoding,) = tokenizer.encode_batch([text])
    ends = [end for _, end in encoding.offsets]
    return list(accumulate(ends[: len(ids) - 1], max, initial=0))
