"""Examples on their way through a predictor: prepared from their texts, rows for the model, errors in place.

Knows the shapes that all tasks share; what a task reads from an example, and which rows it asks of the model,
is in the task's own file. Needs a tokenizer, no weights.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np

from bigbird.errors import InputError
from bigbird.predictors.options import LengthOptions, WindowOptions
from bigbird.predictors.texts import TokenizedText, checked, kind_of, tokenize
from bigbird.predictors.windows import Window, cut_document, num_doubled
from bigbird.tokenization.tokenizer import BigBirdTokenizer

Record = dict[str, Any]


@dataclass(frozen=True)
class Failed:
    """An example that cannot be processed, in its place among the others. type: name of the error."""

    type: str
    message: str

    @property
    def record(self) -> Record:
        """The record this becomes."""
        return {"error": {"type": self.type, "message": self.message}}


class ModelRow(Protocol):
    """What is laid on the packed token axis: ids (length,), token type 1 from `types_from` on (None: nowhere)."""

    @property
    def ids(self) -> np.ndarray: ...
    @property
    def types_from(self) -> int | None: ...
    def __len__(self) -> int: ...


@dataclass(frozen=True, eq=False)
class Row:
    """One row for the model: ids (length,), int32.

    second: where a second text begins, None where there is none. types_from: the first token of type 1, None where
    all are of type 0.
    """

    ids: np.ndarray
    second: int | None = None
    types_from: int | None = None

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False, kw_only=True)
class Prepared:
    """An example ready for the model; tasks add what their postprocess needs. Picklable, without tensors.

    rows: what the model reads, in order. num_tokens: tokens of the document that the result rests on, special
    tokens left out. num_windows: windows the document was cut into. truncated: its end was left out. num_lost: tokens
    of what was left out. num_doubled: tokens that a second window reads as well. spans: the characters of each window,
    where the record lists them.
    """

    rows: tuple[Row, ...]
    num_tokens: int
    num_windows: int
    truncated: bool
    num_lost: int = 0
    num_doubled: int = 0
    spans: tuple[tuple[int, int], ...] = ()

    @property
    def num_model_tokens(self) -> int:
        """Tokens the model reads for this example: the measure of its cost."""
        return sum(len(row) for row in self.rows)

    @property
    def facts(self) -> Record:
        """The fields every record has."""
        return {"num_tokens": self.num_tokens, "num_windows": self.num_windows, "truncated": self.truncated}


NamedTexts = Sequence[tuple[str, object]]
PreparedT = TypeVar("PreparedT", bound=Prepared)


@dataclass(frozen=True, kw_only=True)
class Reading(Generic[PreparedT]):
    """Examples, and how a task reads them.

    vocab_size: ids the model knows. texts_of: the texts of an example, each with the name that messages give it.
    build: makes the prepared example of the tokenized texts. Both raise InputError for an example that will not do.
    allow_empty: texts without tokens will do. with_words: the tokenized texts say which word each token belongs to.
    """

    examples: Sequence[Any]
    vocab_size: int
    options: LengthOptions
    texts_of: Callable[[Any], NamedTexts]
    build: Callable[[list[TokenizedText]], PreparedT]
    allow_empty: bool = False
    with_words: bool = False

    def texts(self, example: Any) -> list[tuple[str, str]] | Failed:
        """Name and content of each text of an example, checked."""
        try:
            return [(name, checked(value, name, self.options)) for name, value in self.texts_of(example)]
        except InputError as error:
            return Failed("InputError", str(error))

    def prepared(
        self, texts: list[tuple[str, str]] | Failed, tokenized: Mapping[str, TokenizedText | Exception]
    ) -> PreparedT | Failed:
        """The example of these texts; `tokenized`: what became of every text."""
        if isinstance(texts, Failed):
            return texts
        try:
            return self.build(_within_limits([(name, tokenized[text]) for name, text in texts], self))
        except InputError as error:
            return Failed("InputError", str(error))


def prepare(tokenizer: BigBirdTokenizer, readings: Sequence[Reading[Any]]) -> list[list[Any]]:
    """For each reading one prepared example, or Failed, for each of its examples, in order.

    A text is tokenized once, whoever reads it and however often. An example that will not do, or that the tokenizer
    cannot take, becomes a Failed in its own place.
    """
    found = [[reading.texts(example) for example in reading.examples] for reading in readings]
    kept = (texts for of_one in found for texts in of_one if not isinstance(texts, Failed))
    every = list(dict.fromkeys(text for texts in kept for _, text in texts))
    with_words = any(reading.with_words for reading in readings)
    tokenized = dict(zip(every, tokenize(tokenizer, every, with_words), strict=True))
    return [
        [reading.prepared(texts, tokenized) for texts in of_one]
        for reading, of_one in zip(readings, found, strict=True)
    ]


def single_row(tokenizer: BigBirdTokenizer, ids: np.ndarray) -> Row:
    """[CLS] ids [SEP]: one token before the ids, one after."""
    return Row(np.concatenate([[tokenizer.cls_token_id], ids, [tokenizer.sep_token_id]]).astype(np.int32))


def pair_row(
    tokenizer: BigBirdTokenizer, first: np.ndarray, second: np.ndarray, *, with_types: bool | None = None
) -> Row:
    """[CLS] first [SEP] second [SEP].

    with_types: the second text has token type 1; None: where the tokenizer names token_type_ids as an input.
    """
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    ids = np.concatenate([[cls], first, [sep], second, [sep]]).astype(np.int32)
    begin = len(first) + 2
    if with_types is None:
        with_types = "token_type_ids" in tokenizer.model_input_names
    return Row(ids, second=begin, types_from=begin if with_types else None)


@dataclass(frozen=True, eq=False, kw_only=True)
class PreparedWindows(Prepared):
    """A single text cut into windows, one a row.

    text: its tokens as far as they are read.
    """

    text: TokenizedText
    windows: tuple[Window, ...]

    @classmethod
    def cut(
        cls, tokenizer: BigBirdTokenizer, text: TokenizedText, limit: int, options: LengthOptions, **task_fields: Any
    ) -> Self:
        """Rows of at most `limit` tokens; task_fields: what a task's own class adds."""
        windows, truncated = cut_document(len(text), limit - 2, options, what="text")
        return cls(
            rows=window_rows(tokenizer, text, windows),
            num_tokens=windows[-1].stop,
            num_windows=len(windows),
            truncated=truncated,
            num_lost=len(text) - windows[-1].stop,
            num_doubled=num_doubled(windows),
            spans=spans(text, windows, options),
            text=text.head(windows[-1].stop),
            windows=windows,
            **task_fields,
        )


def spans(text: TokenizedText, windows: Sequence[Window], options: LengthOptions) -> tuple[tuple[int, int], ...]:
    """The characters each window reads, where the options ask for them."""
    if not (isinstance(options, WindowOptions) and options.return_windows):
        return ()
    return tuple(text.span(window.start, window.stop) for window in windows)


def window_rows(tokenizer: BigBirdTokenizer, text: TokenizedText, windows: Sequence[Window]) -> tuple[Row, ...]:
    """A single text's windows as rows."""
    return tuple(single_row(tokenizer, text.ids[window.start : window.stop]) for window in windows)


def fields(example: object, *names: str) -> list[object]:
    """The values of a mapping's fields. Raises InputError naming what is missing, or what came instead."""
    if not isinstance(example, Mapping):
        raise InputError(f"the example is {kind_of(example)}, expected a mapping with {' and '.join(names)}")
    missing = [name for name in names if name not in example]
    if missing:
        raise InputError(f"the example lacks {' and '.join(missing)}, expected {' and '.join(names)}")
    return [example[name] for name in names]


def _within_limits(
    tokenized: Sequence[tuple[str, TokenizedText | Exception]], reading: Reading[Any]
) -> list[TokenizedText]:
    texts = []
    for name, tokens in tokenized:
        if isinstance(tokens, Exception):
            raise InputError(f"{name} cannot be tokenized: {type(tokens).__name__}: {tokens}")
        if not len(tokens) and not reading.allow_empty:
            what = "is empty" if not tokens.text else f"has no tokens in its {len(tokens.text)} characters"
            raise InputError(f"{name} {what}, expected at least one token")
        if (largest := int(tokens.ids.max(initial=0))) >= reading.vocab_size:
            raise InputError(f"{name} has token {largest}, but the model's vocabulary ends before {reading.vocab_size}")
        texts.append(tokens if reading.with_words else tokens.without_words())
    total, most = sum(len(tokens) for tokens in texts), reading.options.max_tokens_per_document
    if total > most:
        raise InputError(
            f"{tokenized[0][0] if len(texts) == 1 else 'the example'} has {total} tokens, "
            f"more than max_tokens_per_document={most}"
        )
    return texts
