"""Labelled rows in the forms that people have them, as the documents that `documents` describes.

| task | what is read |
|---|---|
| token-classification | `words` or `tokens`, with `tags`, `ner_tags` or `labels`: names, or numbers that Hugging Face's metadata names; BIO, IOB1, BILOU, BIOES or plain labels. Or `text` with `entities`, `spans` or `labels`: {start, end, label} or [start, end, label] each, also as JSON text |
| text-classification | `label` or `labels`: a name, a number, a list of names or of classes, or a list of 0 and 1 for each class |
| question-answering | `answers` as in SQuAD, as columns or as a list, also as JSON text |

A form is found from all rows of a part, for one row alone may be read in several ways.
"""  # noqa: E501

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bigbird.errors import InputError

Row = Mapping[str, Any]

_WORDS = ("words", "tokens")
_TAGS = ("tags", "ner_tags", "labels")
_SPANS = ("entities", "spans", "labels", "label")
_SPAN_LABEL = ("label", "type", "entity", "entity_group", "tag")
_PREFIXES = ("B-", "I-", "L-", "U-", "E-", "S-")
_BEGINS, _ENDS = "BUS", "LUES"


@dataclass(frozen=True)
class Format:
    """The form of the rows of a part.

    columns: what a document calls a column, and what the rows do. classes: names of the numbers in the column of
    labels. prefixed: tags begin with their place in an entity. multi_hot: labels are a 0 or 1 for each class.
    """

    task: str
    columns: Mapping[str, str]
    classes: tuple[str, ...] = ()
    prefixed: bool = False
    multi_hot: bool = False

    def document(self, row: Row, where: str) -> dict[str, Any]:
        """A row as a document; `where` names it in an InputError for what is not understood."""
        document = {name: row.get(column) for name, column in self.columns.items()}
        for name, value in row.items():
            if name not in self.columns.values():
                document.setdefault(name, value)
        if self.task == "token-classification":
            if "words" in self.columns:
                return document | self._from_words(document, where)
            if document.get("entities") is not None:
                column = self.columns["entities"]
                document["entities"] = [
                    _span(e, f"{where}: {column}") for e in _list(document["entities"], f"{where}: {column}")
                ]
        elif self.task == "text-classification" and document.get("label") is not None:
            document["label"] = self._label(document["label"], f"{where}: {self.columns['label']}")
        elif self.task == "question-answering" and document.get("answers") is not None:
            document["answers"] = _answers(document["answers"], f"{where}: {self.columns['answers']}")
        return document

    def _from_words(self, document: Row, where: str) -> dict[str, Any]:
        words, tags = document["words"], document["tags"]
        if not words or tags is None or len(words) != len(tags):
            raise InputError(f"{where}: {len(words or ())} words need as many tags, found {len(tags or ())}")
        entities: list[dict[str, Any]] = []
        at, before = 0, None
        for number, (word, tag) in enumerate(zip(words, tags, strict=True)):
            if not isinstance(word, str) or not word.strip():
                raise InputError(f"{where}: {self.columns['words']}[{number}] is {word!r}, expected a word")
            tag = self._class(tag, f"{where}: {self.columns['tags']}[{number}]")
            place, label = (tag[0], tag[2:]) if self.prefixed and tag != "O" else ("I", tag)
            if tag != "O":
                # A label goes on until a B or S begins another one, as seqeval reads it: so IOB1 is read as well.
                if place in _BEGINS or label != before:
                    entities.append({"start": at, "label": label})
                entities[-1]["end"] = at + len(word)
            before = None if tag == "O" or place in _ENDS else label
            at += len(word) + 1
        return {"text": " ".join(words), "entities": entities}

    def _class(self, value: Any, what: str) -> str:
        if isinstance(value, str) and value:
            return value
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(self.classes):
            return self.classes[value]
        if isinstance(value, int) and self.classes:
            raise InputError(f"{what} is {value}, expected 0 to {len(self.classes) - 1}")
        hint = "; numbers need the names of a ClassLabel in the file's metadata" if isinstance(value, int) else ""
        raise InputError(f"{what} is {value!r}, expected a name{hint}")

    def _label(self, value: Any, what: str) -> Any:
        if isinstance(value, list | tuple):
            if self.multi_hot:
                digits = len(str(len(value) - 1))
                names = self.classes or [f"LABEL_{number:0{digits}}" for number in range(len(value))]
                return [name for name, one in zip(names, value, strict=True) if one]
            return [self._label(item, f"{what}[{number}]") for number, item in enumerate(value)]
        if self.classes and not isinstance(value, str):
            return self._class(value, what)
        if isinstance(value, str | float):
            return value
        if isinstance(value, int):  # and bool
            return str(value)
        raise InputError(f"{what} is {value!r}, expected a name, a number or a list of names")


def find_format(rows: Sequence[Row], task: str, metadata: Mapping[bytes, bytes] | None) -> Format:
    """The form of all rows of a part. metadata: of its Parquet file. What rows lack, `check_documents` names."""
    names = list(rows[0]) if rows else []
    if task == "token-classification":
        words, tags = _first(_WORDS, names), _first(_TAGS, names)
        if words and tags and "entities" not in names:
            classes = _classes(metadata, tags)
            labels = {tag for row in rows for tag in row.get(tags) or () if isinstance(tag, str)} or set(classes)
            prefixed = all(label.startswith(_PREFIXES) for label in labels - {"O"})
            return Format(task, {"words": words, "tags": tags}, classes, prefixed=prefixed)
        spans = _first(_SPANS, names)
        return Format(task, {"entities": spans} if spans else {})
    if task in ("text-classification", "multiple-choice"):
        label = _first(("label", "labels"), names)
        classes = _classes(metadata, label) if label and task == "text-classification" else ()
        lists: list[Any] = [row[label] for row in rows if row.get(label) is not None] if label else []
        hot = not classes and all(isinstance(found, list | tuple) for found in lists) and _all_multi_hot(lists)
        return Format(task, {"label": label} if label else {}, classes, multi_hot=hot)
    return Format(task, {"answers": "answers"} if "answers" in names else {})


def _first(wanted: Iterable[str], names: Sequence[str]) -> str | None:
    return next((name for name in wanted if name in names), None)


def _all_multi_hot(lists: Sequence[Sequence[Any]]) -> bool:
    """Several lists as long as each other of nothing but 0 and 1; as classes, all would have the same two."""
    same = len({len(found) for found in lists}) == 1 and len(lists[0]) > 1
    return same and all(not isinstance(one, str) and one in (0, 1) for found in lists for one in found)


def _classes(metadata: Mapping[bytes, bytes] | None, column: str) -> tuple[str, ...]:
    """The names that Hugging Face's metadata gives the numbers of a column; none where it gives none."""
    try:
        found = json.loads((metadata or {})[b"huggingface"])["info"]["features"][column]
    except (KeyError, TypeError, ValueError):
        return ()
    while isinstance(found, Mapping) and "feature" in found:  # a list of classes
        found = found["feature"]
    names = found.get("names") if isinstance(found, Mapping) else found[0].get("names") if found else None
    return tuple(names or ())


def _list(value: Any, what: str) -> list[Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise InputError(f"{what} is {value[:80]!r}, expected a list or its JSON text") from None
    if isinstance(value, Mapping) and isinstance(value.get("entities"), list):  # spaCy's
        value = value["entities"]
    if not isinstance(value, list | tuple):
        raise InputError(f"{what} is {value!r}, expected a list")
    return list(value)


def _span(entity: Any, what: str) -> dict[str, Any]:
    expected = f"{what} has {entity!r}, expected {{start, end, label}} or [start, end, label]"
    if isinstance(entity, str):
        try:
            entity = json.loads(entity)
        except ValueError:
            raise InputError(expected) from None
    if isinstance(entity, Mapping):
        label = next((entity[name] for name in _SPAN_LABEL if entity.get(name) is not None), None)
        entity = [entity.get("start"), entity.get("end"), label]
    try:
        start, end, label = entity
        start, end = _whole(start), _whole(end)
    except (TypeError, ValueError):
        raise InputError(expected) from None
    if not isinstance(label, str):
        raise InputError(expected)
    return {"start": start, "end": end, "label": label}


def _whole(number: Any) -> int:
    if isinstance(number, bool) or (not isinstance(number, str) and int(number) != number):
        raise ValueError(number)
    return int(number)


def _answers(value: Any, what: str) -> dict[str, list[Any]]:
    expected = f"{what} is {value!r}, expected {{text: [...], answer_start: [...]}}"
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise InputError(expected) from None
    if isinstance(value, list | tuple):
        value = {
            name: [one.get(name) if isinstance(one, Mapping) else None for one in value]
            for name in ("text", "answer_start")
        }
    if not isinstance(value, Mapping):
        raise InputError(expected)
    texts, starts = (
        [found] if isinstance(found, str | int) else found for found in map(value.get, ("text", "answer_start"))
    )
    if not isinstance(texts, list | tuple) or not isinstance(starts, list | tuple) or len(texts) != len(starts):
        raise InputError(expected)
    if not all(isinstance(text, str) for text in texts):
        raise InputError(expected)
    try:
        return {"text": list(texts), "answer_start": [_whole(start) for start in starts]}
    except (TypeError, ValueError):
        raise InputError(expected) from None
