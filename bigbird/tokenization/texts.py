"""What is given to a tokenizer, brought into one form: each item one text or two, whole or in words.

Knows the forms that transformers' tokenizers take; nothing of tokens.
"""

from collections.abc import Sequence
from typing import Any

from bigbird.errors import InputError
from bigbird.tokenization.charsmap import Charsmap, NormalizedText

Text = str | tuple[str, str]
Item = Sequence[Any]
"""One text or two; each a str, or a list of words."""
Sources = list[list[NormalizedText]]


def pairs_of(text: Any, text_pair: Any, in_words: bool) -> tuple[list[Item], bool]:
    """The items of a call, and whether it is about a single one.

    Raises InputError for texts of another form, and where the two lists differ in length.
    """
    if not isinstance(text, str | list | tuple):
        raise InputError(f"text is of type {type(text).__name__}, expected a text or a list of texts")
    single = isinstance(text, str) if not in_words else not (len(text) and isinstance(text[0], list | tuple))
    if single:
        return [(text,) if text_pair is None else (text, text_pair)], True
    if text_pair is not None:
        if not isinstance(text_pair, list | tuple) or len(text_pair) != len(text):
            found = len(text_pair) if isinstance(text_pair, list | tuple) else f"a {type(text_pair).__name__}"
            raise InputError(f"text_pair: {found} for {len(text)} first texts, expected a list of as many")
        return list(zip(text, text_pair, strict=True)), False
    if in_words:
        # A list of lists of words may hold pairs of those.
        return [
            tuple(item) if len(item) == 2 and isinstance(item[0], list | tuple) else (item,) for item in text
        ], False
    return [tuple(item) if isinstance(item, list | tuple) else (item,) for item in text], False


def prepare(
    items: Sequence[Item], charsmap: Charsmap | None, in_words: bool
) -> tuple[list[tuple[Any, ...]], list[Sources]]:
    """Items as the tokenizers library gets them, and for each the way back to its original texts.

    Raises InputError naming the first item that is not valid text.
    """
    inputs: list[tuple[Any, ...]] = []
    sources: list[Sources] = []
    for index, item in enumerate(items):
        if len(item) not in (1, 2):
            raise InputError(f"text[{index}]: expected a text or a pair, got {len(item)} texts")
        parts = []
        for part in item:
            if in_words and not isinstance(part, list | tuple):
                raise InputError(f"text[{index}]: expected a list of words, got {type(part).__name__}")
            words = list(part) if in_words else [part]
            for word in words:
                _check_text(word, index)
            parts.append(words)
        if charsmap is None:
            sources.append([])
        else:
            ways = [[charsmap.normalize(word) for word in words] for words in parts]
            parts = [[way.text for way in words] for words in ways]
            sources.append(ways)
        inputs.append(tuple(parts) if in_words else tuple(words[0] for words in parts))
    return inputs, sources


def _check_text(text: object, index: int) -> None:
    if not isinstance(text, str):
        raise InputError(f"text[{index}]: expected a str, got {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"text[{index}]: character {error.start} is a lone surrogate (U+{ord(text[error.start]):04X})"
        ) from None
