"""Texts on their way to tokens: checked, tokenized together, errors in place. Needs a tokenizer, no weights."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bigbird.errors import InputError
from bigbird.predictors.options import LengthOptions
from bigbird.tokenization.encoding import Encoding
from bigbird.tokenization.tokenizer import BigBirdTokenizer

CHARACTERS_PER_TOKEN = 16  # far above what any text needs; bounds what the tokenizer is asked to hold
CHARACTERS_PER_CALL = 4_000_000  # texts tokenized at once: the tokenizer's own result is 20 times its input


@dataclass(frozen=True, eq=False)
class TokenizedText:
    """A text, its token ids (n,) int32 and their character offsets in it (n, 2) int64, without special tokens.

    words: the number of each token's word, (n,) int32, -1 for none; None where the task does not read them.
    """

    text: str
    ids: np.ndarray
    offsets: np.ndarray
    words: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def head(self, num_tokens: int) -> "TokenizedText":
        """The same text with its first tokens only."""
        if num_tokens >= len(self):
            return self
        words = None if self.words is None else self.words[:num_tokens]
        return TokenizedText(self.text, self.ids[:num_tokens], self.offsets[:num_tokens], words)

    def without_words(self) -> "TokenizedText":
        """The same text as a task has it that does not read words."""
        return self if self.words is None else replace(self, words=None)

    def tail(self, num_tokens: int) -> "TokenizedText":
        """The same text with its last tokens only, of which there is at least one."""
        words = None if self.words is None else self.words[-num_tokens:]
        return TokenizedText(self.text, self.ids[-num_tokens:], self.offsets[-num_tokens:], words)

    def span(self, start: int, stop: int) -> tuple[int, int]:
        """The characters of tokens `start` to `stop`."""
        return int(self.offsets[start, 0]), int(self.offsets[stop - 1, 1])

    def word_of(self, token: int) -> tuple[int, int]:
        """First and last token of the word a token belongs to; itself where it belongs to none."""
        if self.words is None or self.words[token] < 0:
            return token, token
        same = np.flatnonzero(self.words == self.words[token])
        return int(same[0]), int(same[-1])


def kind_of(value: object) -> str:
    """How messages say what came instead."""
    return "null" if value is None else f"of type {type(value).__name__}"


def checked(value: object, name: str, options: LengthOptions) -> str:
    """The text, if it is one the tokenizer may be given."""
    if not isinstance(value, str):
        raise InputError(f"{name} is {kind_of(value)}, expected a string")
    limit = CHARACTERS_PER_TOKEN * options.max_tokens_per_document
    if len(value) > limit:
        raise InputError(
            f"{name} has {len(value)} characters, more than {limit}, which is {CHARACTERS_PER_TOKEN} for each of "
            f"max_tokens_per_document={options.max_tokens_per_document}"
        )
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(f"{name} is not Unicode text: a lone surrogate at character {error.start}") from None
    return value


def tokenize(tokenizer: BigBirdTokenizer, texts: Sequence[str], with_words: bool) -> list[TokenizedText | Exception]:
    """Each text's tokens, or the exception the tokenizer raised for it."""
    results: list[TokenizedText | Exception] = []
    begin = 0
    while begin < len(texts):
        end, size = begin + 1, len(texts[begin])
        while end < len(texts) and size + len(texts[end]) <= CHARACTERS_PER_CALL:
            size += len(texts[end])
            end += 1
        results.extend(_tokenize_together(tokenizer, texts[begin:end], with_words))
        begin = end
    return results


def _tokenize_together(
    tokenizer: BigBirdTokenizer, texts: Sequence[str], with_words: bool
) -> Sequence[TokenizedText | Exception]:
    try:
        encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
    except Exception as error:  # one text of many: find it, so that it alone fails
        if len(texts) == 1:
            return [error]
        return [result for text in texts for result in _tokenize_together(tokenizer, [text], with_words)]
    return [
        TokenizedText(
            text,
            np.asarray(encoding.ids, dtype=np.int32),
            np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2),
            _words(encoding) if with_words else None,
        )
        for text, encoding in zip(texts, encodings, strict=True)
    ]


def _words(encoding: Encoding) -> np.ndarray:
    return np.array([-1 if word is None else word for word in encoding.word_ids], dtype=np.int32)
