"""One text, or pair of texts, as tokens, with the way back to its characters and words.

Knows the tokens of one row; nothing of batches, tensors or vocabularies.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import tokenizers

from bigbird.tokenization.charsmap import NormalizedText


class CharSpan(NamedTuple):
    """Characters [start, end) of a text."""

    start: int
    end: int


class TokenSpan(NamedTuple):
    """Tokens [start, end) of a row."""

    start: int
    end: int


class Encoding:
    """Tokens of one row; every list has one entry a token, and is made when it is first asked for.

    raw: what the tokenizers library gave. sources: for each text the way from what that library read back to the
    original, one for each of its words where the text came in words, else one; nothing where nothing was changed.
    """

    def __init__(self, raw: tokenizers.Encoding, sources: Sequence[Sequence[NormalizedText]] = ()) -> None:
        self._raw = raw
        self._sources = sources

    def __len__(self) -> int:
        return len(self._raw)

    @cached_property
    def ids(self) -> list[int]:
        return list(self._raw.ids)

    @cached_property
    def tokens(self) -> list[str]:
        """Spellings; that of a `[MASK]` in the text begins with the space it swallowed."""
        return list(self._raw.tokens)

    @cached_property
    def token_type_ids(self) -> list[int]:
        """0 for the first text and its special tokens, 1 for the second, whether the model is fed them or not."""
        return list(self._raw.type_ids)

    @cached_property
    def attention_mask(self) -> list[int]:
        """1 for a token, 0 for padding."""
        return list(self._raw.attention_mask)

    @cached_property
    def special_tokens_mask(self) -> list[int]:
        """1 for special tokens added around the texts, and for padding. A `[MASK]` written in the text has 0."""
        return list(self._raw.special_tokens_mask)

    @cached_property
    def sequence_ids(self) -> list[int | None]:
        """0 or 1, the text the token belongs to; None for added special tokens."""
        return list(self._raw.sequence_ids)

    @cached_property
    def word_ids(self) -> list[int | None]:
        """Number of the word in its text; None for added special tokens."""
        return list(self._raw.word_ids)

    @cached_property
    def offsets(self) -> list[tuple[int, int]]:
        """(start, end) in characters of the original text, or of the word where the text came in words.

        (0, 0) for added special tokens.
        """
        offsets = list(self._raw.offsets)
        if not any(source.edits for part in self._sources for source in part):
            return offsets
        in_words = any(len(part) != 1 for part in self._sources)
        tokens_of: dict[tuple[int, int], list[int]] = {}
        for token, (part, word) in enumerate(zip(self.sequence_ids, self.word_ids, strict=True)):
            if part is not None:
                tokens_of.setdefault((part, (word or 0) if in_words else 0), []).append(token)
        for (part, word), tokens in tokens_of.items():
            original = self._sources[part][word].original_offsets(offsets[token] for token in tokens)
            for token, place in zip(tokens, original, strict=True):
                offsets[token] = place
        return offsets

    @property
    def num_texts(self) -> int:
        return self._raw.n_sequences

    @cached_property
    def overflowing(self) -> list["Encoding"]:
        """What a truncation left over, as rows of their own."""
        return [Encoding(raw, self._sources) for raw in self._raw.overflowing]

    def pad(self, length: int, *, side: str, pad_id: int, pad_token: str) -> None:
        """Fill up to `length` tokens on a side, "left" or "right". Before any list was asked for."""
        self._raw.pad(length, direction=side, pad_id=pad_id, pad_token=pad_token)

    def char_to_token(self, char: int, sequence: int = 0) -> int | None:
        """The token that covers a character of a text; None where none does."""
        places = zip(self.sequence_ids, self.offsets, strict=True)
        return next((t for t, (part, (a, b)) in enumerate(places) if part == sequence and a <= char < b), None)

    def token_to_chars(self, token: int) -> CharSpan | None:
        """The characters a token covers; None for an added special token."""
        return None if self.sequence_ids[token] is None else CharSpan(*self.offsets[token])

    def word_to_tokens(self, word: int, sequence: int = 0) -> TokenSpan | None:
        """The tokens of a word; None where it has none."""
        places = zip(self.sequence_ids, self.word_ids, strict=True)
        tokens = [token for token, place in enumerate(places) if place == (sequence, word)]
        return TokenSpan(tokens[0], tokens[-1] + 1) if tokens else None

    def word_to_chars(self, word: int, sequence: int = 0) -> CharSpan | None:
        """The characters of a word; None where it has no tokens."""
        tokens = self.word_to_tokens(word, sequence)
        return tokens and CharSpan(self.offsets[tokens.start][0], self.offsets[tokens.end - 1][1])

    def char_to_word(self, char: int, sequence: int = 0) -> int | None:
        """The word that covers a character of a text; None where none does."""
        token = self.char_to_token(char, sequence)
        return None if token is None else self.word_ids[token]
