"""Labelled rows become token lists with targets, and bad labels are named before anything is trained.

Columns: `text`, and `entities` (list of {start, end, label}, characters) for token-classification; `text`,
optionally `text_pair`, and `label` (a name, a list of names, or a number) for text-classification; `text` alone for
masked-lm and causal-lm. Knows no model and no Ray.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from bigbird.errors import InputError
from bigbird.tokenizer import BigBirdTokenizer, Encoding

Task = Literal["token-classification", "text-classification", "masked-lm", "causal-lm"]
TASKS: tuple[Task, ...] = ("token-classification", "text-classification", "masked-lm", "causal-lm")
REGRESSION, SINGLE, MULTIPLE = "regression", "single_label_classification", "multi_label_classification"
IGNORED = -100


@dataclass(frozen=True, kw_only=True)
class TokenRow:
    """One row a model trains on: [CLS] ... [SEP], at most as long as the model reads.

    targets: token-classification, a label a token (IGNORED for none); text-classification, the label's index, an
    indicator a label, or the number; else nothing. `key` orders rows the same way wherever they were made.
    """

    key: str
    ids: tuple[int, ...]
    token_type_ids: tuple[int, ...]
    targets: tuple[float, ...] = ()


@dataclass(kw_only=True)
class Counts:
    """What is worth knowing about labelled rows: documents, rows, labels, spans that cut a token."""

    documents: int = 0
    rows: int = 0
    labels: dict[str, int] = field(default_factory=dict)
    cut_tokens: int = 0


def text_hash(document: Mapping[str, Any]) -> str:
    """Equal for equal texts (and pairs)."""
    parts = (str(document["text"]), str(document.get("text_pair") or ""))
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def check_documents(documents: Sequence[Mapping[str, Any]], task: Task, where: str) -> None:
    """Raises InputError for the first row that cannot be trained on, naming the row, what is wrong and its value."""
    if not documents:
        raise InputError(f"{where}: expected labelled rows, found 0")
    wanted = {"token-classification": ["text", "entities"], "text-classification": ["text", "label"]}.get(
        task, ["text"]
    )
    for number, document in enumerate(documents):
        for column in wanted:
            if column not in document:
                raise InputError(f"{where}: task {task} needs column {column!r}; found {', '.join(document)}")
            if document[column] is None:
                raise InputError(f"{where}, row {number}: {column} is null")
        if not isinstance(document["text"], str) or not document["text"].strip():
            raise InputError(f"{where}, row {number}: text is empty")
        if task == "token-classification":
            _check_spans(document["text"], document["entities"], f"{where}, row {number}")


def _check_spans(text: str, entities: Iterable[Mapping[str, Any]], where: str) -> None:
    end = 0
    for entity in sorted(entities, key=lambda entity: (entity["start"], entity["end"])):
        if not 0 <= entity["start"] < entity["end"] <= len(text):
            raise InputError(f"{where}: span {entity['start']}..{entity['end']} is not within 0..{len(text)}")
        if entity["start"] < end:
            raise InputError(f"{where}: span {entity['start']}..{entity['end']} overlaps the one before, until {end}")
        end = entity["end"]


def find_labels(
    documents: Iterable[Mapping[str, Any]], task: Task, scheme: str = "bio"
) -> tuple[list[str], str | None]:
    """The model's labels, sorted, and its problem_type, as the training rows have them.

    scheme: "bio" makes B-X and I-X of every entity label X, which tells touching entities apart; "io" keeps X.
    """
    if task == "token-classification":
        names = sorted({entity["label"] for document in documents for entity in document["entities"]})
        if not names:
            raise InputError("the training rows hold no entity")
        return ["O", *(names if scheme == "io" else [f"{p}-{name}" for name in names for p in "BI"])], None
    if task != "text-classification":
        return [], None
    labels = [document["label"] for document in documents]
    if all(isinstance(label, list) for label in labels):
        return sorted({name for label in labels for name in label}), MULTIPLE
    if all(isinstance(label, float) for label in labels):
        return ["LABEL_0"], REGRESSION
    names = sorted({str(label) for label in labels})
    if len(names) < 2:
        raise InputError(f"the training rows hold one label only: {names[0]!r}; at least 2 are needed")
    return names, SINGLE


def check_split(
    train: Sequence[Mapping[str, Any]], held_out: Sequence[Mapping[str, Any]], task: Task, labels: list[str]
) -> None:
    """Raises InputError for texts on both sides of the split, and for held-out labels the training rows lack."""
    seen = {text_hash(document) for document in train}
    shared = [number for number, document in enumerate(held_out) if text_hash(document) in seen]
    if shared:
        raise InputError(
            f"{len(shared)} of {len(held_out)} evaluation rows have the text of a training row, first row {shared[0]}"
        )
    known = {label.removeprefix("B-").removeprefix("I-") for label in labels}
    for number, document in enumerate(held_out):
        unknown = _names(document, task) - known if labels != ["LABEL_0"] else set()
        if unknown:
            raise InputError(f"evaluation row {number}: label {min(unknown)!r} is not in the training rows")


def _names(document: Mapping[str, Any], task: Task) -> set[str]:
    if task == "token-classification":
        return {entity["label"] for entity in document["entities"]}
    if task == "text-classification":
        return set(document["label"]) if isinstance(document["label"], list) else {str(document["label"])}
    return set()


def token_rows(
    documents: Sequence[Mapping[str, Any]],
    task: Task,
    tokenizer: BigBirdTokenizer,
    labels: Sequence[str],
    max_length: int,
    problem_type: str | None = None,
) -> tuple[list[TokenRow], Counts]:
    """Every document as one row, or as several where it is longer than `max_length` tokens, each with its targets.

    A token carries an entity's label where they share a character; entities that begin or end inside a token are
    counted in `Counts.cut_tokens`.
    """
    counts = Counts(documents=len(documents))
    rows: list[TokenRow] = []
    index = {label: number for number, label in enumerate(labels)}
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    for document in documents:
        pair = document.get("text_pair")
        encoding = tokenizer.encode(document["text"], pair, add_special_tokens=False)
        for name in _names(document, task):
            counts.labels[name] = counts.labels.get(name, 0) + 1
        tags = _tags(encoding, document["entities"], index, counts) if task == "token-classification" else None
        if pair:
            whole = tokenizer.encode(document["text"], pair)
            if len(whole.ids) > max_length:
                raise InputError(f"a pair of texts has {len(whole.ids)} tokens, the limit is {max_length}")
            pieces = [(tuple(whole.ids), tuple(whole.token_type_ids), slice(0, 0))]
        else:
            cuts = [slice(at, at + max_length - 2) for at in range(0, max(1, len(encoding.ids)), max_length - 2)]
            pieces = [((cls, *encoding.ids[cut], sep), (), cut) for cut in cuts]
        for number, (ids, types, cut) in enumerate(pieces):
            targets: tuple[float, ...] = ()
            if tags is not None:
                targets = (IGNORED, *tags[cut], IGNORED)
            elif task == "text-classification":
                targets = _class(document["label"], index, problem_type)
            key = f"{text_hash(document)}-{number:06d}"
            rows.append(TokenRow(key=key, ids=ids, token_type_ids=types or (0,) * len(ids), targets=targets))
    counts.rows = len(rows)
    return rows, counts


def _tags(
    encoding: Encoding, entities: Iterable[Mapping[str, Any]], index: Mapping[str, int], counts: Counts
) -> list[int]:
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


def _class(label: Any, index: Mapping[str, int], problem_type: str | None) -> tuple[float, ...]:
    if problem_type == REGRESSION:
        return (float(label),)
    if problem_type == MULTIPLE:
        return tuple(float(name in label) for name in index)
    return (index[str(label)],)
