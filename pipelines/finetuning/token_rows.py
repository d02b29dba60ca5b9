"""Labelled documents become token lists with targets, cut and paired as the predictors read them.

Knows tokenizers and predictors' preprocessing; no model's weights, no Ray.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from bigbird.config import BigBirdConfig
from bigbird.errors import InputError
from bigbird.predictors.examples import Failed, Prepared, Row
from bigbird.predictors.multiple_choice import MultipleChoicePredictor
from bigbird.predictors.question_answering import PreparedQuestion, QuestionAnsweringPredictor
from bigbird.predictors.tasks import MultipleChoiceOptions, QuestionAnsweringOptions, TextClassificationOptions
from bigbird.predictors.text_classification import TextClassificationPredictor
from bigbird.tokenization.encoding import Encoding
from bigbird.tokenization.tokenizer import BigBirdTokenizer
from pipelines.finetuning.documents import COLUMNS, MULTIPLE, REGRESSION, Document, Task, names, text_hash

IGNORED = -100
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("ids", pa.list_(pa.int32())),
        ("token_type_ids", pa.list_(pa.int8())),
        ("lengths", pa.list_(pa.int32())),
        ("targets", pa.list_(pa.float64())),
    ]
)
"""Of rows on their way from Ray Data to the workers."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenRow:
    """What one example adds to a step: [CLS] ... [SEP], at most as long as the model reads.

    lengths: of the rows the model reads; they lie one after another in `ids`. One, but for multiple-choice, which has
    one a choice.
    targets: token-classification, a label a token (IGNORED for none); text-classification, the label's index, an
    indicator a label, or the number; multiple-choice, the index of the right choice; question-answering, the first
    and the last token of the answer, 0 and 0 for none; else nothing. `key` orders rows the same way wherever they
    were made. Arrays and not tuples: a worker holds all its rows, and a token takes 5 bytes instead of 44.
    """

    key: str
    ids: npt.NDArray[np.int32]
    token_type_ids: npt.NDArray[np.int8]
    lengths: npt.NDArray[np.int32]
    targets: npt.NDArray[np.float64]


@dataclass(kw_only=True)
class Counts:
    """What is worth knowing about labelled rows: documents, rows, labels, spans that cut a token."""

    documents: int = 0
    rows: int = 0
    labels: dict[str, int] = field(default_factory=dict)
    cut_tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class ToRows:
    """How documents of a task become rows: `rows(documents)` is the whole of it.

    A span that begins or ends inside a token is given the whole token, and counted in `Counts.cut_tokens`.
    """

    task: Task
    tokenizer: BigBirdTokenizer
    config: BigBirdConfig
    labels: Sequence[str] = ()
    max_length: int
    problem_type: str | None = None

    def rows(self, documents: Sequence[Document]) -> tuple[list[TokenRow], Counts]:
        """Every document as one row, or as several where it is longer than `max_length` tokens, with its targets.

        Raises InputError for a document no row can be made of.
        """
        counts = Counts(documents=len(documents))
        for document in documents:
            for name in names(document, self.task):
                counts.labels[name] = counts.labels.get(name, 0) + 1
        if self.task in ("masked-lm", "causal-lm", "token-classification"):
            rows = self._slices(documents, counts)
        else:
            rows = self._predictor_rows(documents, counts)
        counts.rows = len(rows)
        return rows, counts

    def _slices(self, documents: Sequence[Document], counts: Counts) -> list[TokenRow]:
        """Rows in which every token of a document stands once."""
        cls, sep = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        index = {label: number for number, label in enumerate(self.labels)}
        room = self.max_length - 2
        rows = []
        encodings = self.tokenizer.encode_batch([d["text"] for d in documents], add_special_tokens=False)
        for document, encoding in zip(documents, encodings, strict=True):
            tags = _tags(encoding, document["entities"], index, counts) if self.labels else []
            key = text_hash(document["text"])
            for number, at in enumerate(range(0, max(1, len(encoding.ids)), room)):
                # To a causal model [SEP] says that the text ends: only what ends there has it.
                goes_on = self.task == "causal-lm" and at + room < len(encoding.ids)
                ids = [cls, *encoding.ids[at : at + room], *(() if goes_on else (sep,))]
                targets = [IGNORED, *tags[at : at + room], IGNORED] if self.labels else []
                rows.append(_row(f"{key}-{number:06d}", [Row(np.array(ids))], targets))
        return rows

    def _predictor_rows(self, documents: Sequence[Document], counts: Counts) -> list[TokenRow]:
        """Rows as the predictor of the task makes them, windows and all."""
        tokenizer, config, longest = self.tokenizer, self.config, self.max_length
        prepared: Sequence[Prepared | Failed]
        if self.task == "text-classification":
            texts = [{name: d[name] for name in ("text", "text_pair") if d.get(name)} for d in documents]
            one = TextClassificationOptions(max_length=longest)
            prepared = TextClassificationPredictor(tokenizer, config).preprocess(texts, one)
        elif self.task == "multiple-choice":
            several = MultipleChoiceOptions(max_length=longest)
            prepared = MultipleChoicePredictor(tokenizer, config).preprocess(documents, several)
        else:
            question = QuestionAnsweringOptions(max_length=longest)
            prepared = QuestionAnsweringPredictor(tokenizer, config).preprocess(documents, question)
        rows = []
        for number, (document, item) in enumerate(zip(documents, prepared, strict=True)):
            if isinstance(item, Failed):
                raise InputError(f"row {number}: {item.message}")
            key = text_hash(*(document[name] for name in COLUMNS[self.task][0]), document.get("text_pair"))
            parts = len(item.rows) // item.num_windows
            for window in range(item.num_windows):
                chosen = item.rows[window * parts : (window + 1) * parts]
                targets: Sequence[float]
                if isinstance(item, PreparedQuestion):
                    targets = _answer(item, window, document["answers"], counts)
                elif self.task == "multiple-choice":
                    targets = (document["label"],)
                else:
                    targets = self._class(document["label"])
                rows.append(_row(f"{key}-{window:06d}", chosen, targets))
        return rows

    def _class(self, label: Any) -> tuple[float, ...]:
        if self.problem_type == REGRESSION:
            return (float(label),)
        if self.problem_type == MULTIPLE:
            return tuple(float(name in label) for name in self.labels)
        return (self.labels.index(str(label)),)


def _row(key: str, parts: Sequence[Row], targets: Sequence[float]) -> TokenRow:
    types: list[int] = []
    for part in parts:
        first = len(part.ids) if part.types_from is None else part.types_from
        types += [0] * first + [1] * (len(part.ids) - first)
    return TokenRow(
        key=key,
        ids=np.concatenate([part.ids for part in parts], dtype=np.int32, casting="same_kind"),
        token_type_ids=np.array(types, dtype=np.int8),
        lengths=np.array([len(part.ids) for part in parts], dtype=np.int32),
        targets=np.array(targets, dtype=np.float64),
    )


def to_table(rows: Sequence[TokenRow]) -> pa.Table:
    """Of `SCHEMA`."""
    return pa.table({name: [getattr(row, name) for row in rows] for name in SCHEMA.names}, schema=SCHEMA)


def from_table(table: pa.Table) -> list[TokenRow]:
    """The rows of a table of `SCHEMA`, in memory of their own."""
    arrays = {name: _split(table[name]) for name in SCHEMA.names[1:]}
    return [
        TokenRow(key=key, **{name: of_rows[row] for name, of_rows in arrays.items()})
        for row, key in enumerate(table["key"].to_pylist())
    ]


def in_order(rows: Sequence[TokenRow]) -> list[TokenRow]:
    """The same order wherever the rows were made."""
    return sorted(rows, key=lambda row: (row.key, row.targets.tobytes()))


def _split(column: pa.ChunkedArray) -> list[npt.NDArray[Any]]:
    """The list of each row as an array; those of a chunk share their memory."""
    found = []
    for chunk in column.chunks:
        values = chunk.flatten().to_numpy().copy()
        ends = (chunk.offsets.to_numpy() - chunk.offsets[0].as_py()).tolist()
        found += [values[start:end] for start, end in pairwise(ends)]
    return found


def _tags(encoding: Encoding, entities: Iterable[Document], index: Mapping[str, int], counts: Counts) -> list[int]:
    """A label for every token: an entity's where they share a character."""
    tags = [index["O"]] * len(encoding.ids)
    token = 0
    for entity in sorted(entities, key=lambda entity: int(entity["start"])):
        while token < len(tags) and encoding.offsets[token][1] <= entity["start"]:
            token += 1
        first = token
        while token < len(tags) and encoding.offsets[token][0] < entity["end"]:
            begins = token == first and f"B-{entity['label']}" in index
            name = f"B-{entity['label']}" if begins else f"I-{entity['label']}"
            tags[token] = index[name if name in index else entity["label"]]
            token += 1
        if token > first:
            span = (encoding.offsets[first][0], encoding.offsets[token - 1][1])
            counts.cut_tokens += span != (entity["start"], entity["end"])
            token -= span[1] > entity["end"]  # a token cut in two may begin the next entity as well
    return tags


def _answer(item: PreparedQuestion, number: int, answers: Document, counts: Counts) -> tuple[float, float]:
    """The first answer's first and last token in a window's row; 0 and 0, [CLS], where the window lacks part of it."""
    if not answers["text"]:
        return 0, 0
    start, text = answers["answer_start"][0], answers["text"][0]
    offsets, window = item.context.offsets, item.windows[number]
    covered = ((offsets[:, 1] > start) & (offsets[:, 0] < start + len(text))).nonzero()[0]
    if not len(covered):
        return 0, 0
    first, last = int(covered[0]), int(covered[-1])
    if number == 0:
        found = item.context.text[offsets[first, 0] : offsets[last, 1]]
        counts.cut_tokens += found.strip() != text.strip()
    if first < window.start or last >= window.stop:
        return 0, 0
    second = item.rows[number].second
    assert second is not None
    return second + first - window.start, second + last - window.start
