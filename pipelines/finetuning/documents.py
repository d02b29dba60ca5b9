"""Labelled documents: which columns a task reads, and what is wrong with them, named before anything is trained.

| task | columns |
|---|---|
| masked-lm, causal-lm | text |
| text-classification | text, optionally text_pair, and label: a name, a list of names, or a number |
| token-classification | text, and entities: a list of {start, end, label} in characters |
| multiple-choice | prompt, choices (a list), and label: the index of the right one |
| question-answering | question, context, and answers as in SQuAD: {text: [...], answer_start: [...]}, empty for none |

`formats` makes such documents of other forms. Knows no tokens, no model and no Ray.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from bigbird.errors import InputError
from bigbird.predictors.entities import inside_words

Task = Literal[
    "masked-lm", "causal-lm", "text-classification", "token-classification", "multiple-choice", "question-answering"
]
REGRESSION, SINGLE, MULTIPLE = "regression", "single_label_classification", "multi_label_classification"
Document = Mapping[str, Any]

# The columns of text, the first of which must not stand on both sides of a split, and the column of what is learned.
COLUMNS: Mapping[Task, tuple[tuple[str, ...], str | None]] = {
    "masked-lm": (("text",), None),
    "causal-lm": (("text",), None),
    "text-classification": (("text",), "label"),
    "token-classification": (("text",), "entities"),
    "multiple-choice": (("prompt", "choices"), "label"),
    "question-answering": (("context", "question"), "answers"),
}
TASKS = tuple(COLUMNS)


def text_hash(*texts: Any) -> str:
    """Equal for equal texts, lists of texts among them."""
    digest = hashlib.sha256()
    for text in texts:
        for part in [text] if isinstance(text, str) or text is None else text:
            digest.update((part or "").encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()


def check_documents(documents: Sequence[Document], task: Task, where: str) -> None:
    """Raises InputError for the first row that cannot be trained on, naming the row, what is wrong and its value."""
    if not documents:
        raise InputError(f"{where}: expected labelled rows, found 0")
    texts, learned = COLUMNS[task]
    for number, document in enumerate(documents):
        row = f"{where}, row {number}"
        for column in (*texts, *([learned] if learned else [])):
            if column not in document:
                raise InputError(f"{where}: task {task} needs column {column!r}; found {', '.join(document)}")
            if document[column] is None:
                raise InputError(f"{row}: {column} is null")
        for column in texts:
            if column != "choices" and not isinstance(document[column], str):
                raise InputError(f"{row}: {column} is {document[column]!r}, expected a string")
            if column != "choices" and not document[column].strip():
                raise InputError(f"{row}: {column} is empty")
        if task == "token-classification":
            _check_spans(document["text"], document["entities"], row)
        elif task == "text-classification":
            _check_label(document["label"], row)
        elif task == "multiple-choice":
            _check_choice(document["choices"], document["label"], row)
        elif task == "question-answering":
            _check_answers(document["context"], document["answers"], row)


def _check_spans(text: str, entities: Iterable[Document], row: str) -> None:
    end = 0
    for entity in sorted(entities, key=lambda entity: (entity["start"], entity["end"])):
        if not 0 <= entity["start"] < entity["end"] <= len(text):
            raise InputError(f"{row}: span {entity['start']}..{entity['end']} is not within 0..{len(text)}")
        if entity["start"] < end:
            raise InputError(f"{row}: span {entity['start']}..{entity['end']} overlaps the one before, until {end}")
        if not entity["label"] or entity["label"] == "O":
            raise InputError(f"{row}: span {entity['start']}..{entity['end']} has the label {entity['label']!r}")
        end = entity["end"]


def labels_whole_words(documents: Iterable[Document]) -> bool:
    """Whether no labelled span begins or ends inside a word, as the aggregation strategy "words" sees words."""
    for document in documents:
        inside = inside_words(document["text"])
        if any(inside[entity["start"]] or inside[entity["end"]] for entity in document["entities"]):
            return False
    return True


def _check_label(label: Any, row: str) -> None:
    names = label if isinstance(label, list) else [label]
    if any(name is None or name == "" for name in names):
        raise InputError(f"{row}: label {label!r} is empty")
    if isinstance(label, list) and not all(isinstance(name, str) for name in label):
        raise InputError(f"{row}: label is {label!r}, expected a list of names or of whole numbers")
    if isinstance(label, float) and not math.isfinite(label):
        raise InputError(f"{row}: label is {label}, expected a finite number")


def _check_choice(choices: Sequence[str], label: Any, row: str) -> None:
    if not isinstance(choices, list | tuple):
        raise InputError(f"{row}: choices is {choices!r}, expected a list")
    if not all(isinstance(choice, str) and choice for choice in choices):
        raise InputError(f"{row}: a choice is empty")
    if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < len(choices):
        raise InputError(f"{row}: label is {label!r}, expected the index of one of {len(choices)} choices")


def _check_answers(context: str, answers: Document, row: str) -> None:
    for text, start in zip(answers["text"], answers["answer_start"], strict=True):
        found = context[start : start + len(text)]
        if not text.strip() or start < 0 or found != text:
            raise InputError(f"{row}: the answer is {text!r}, the context has {found!r} at {start}")


def find_labels(documents: Iterable[Document], task: Task, scheme: str = "bio") -> tuple[list[str], str | None]:
    """The model's labels, sorted, and its problem_type, as the training rows have them.

    scheme: "bio" makes B-X and I-X of every entity label X, which tells touching entities apart; "io" keeps X.
    """
    if task == "token-classification":
        found = sorted({entity["label"] for document in documents for entity in document["entities"]})
        if not found:
            raise InputError("the training rows hold no entity")
        return ["O", *(found if scheme == "io" else [f"{p}-{name}" for name in found for p in "BI"])], None
    if task != "text-classification":
        return [], None
    labels = [document["label"] for document in documents]
    kinds = set(map(_kind, labels))
    if len(kinds) > 1:
        raise InputError("the training rows mix names, lists of names and numbers as labels")
    if kinds == {MULTIPLE}:
        found = _in_order({name for label in labels for name in label})
        if not found:
            raise InputError("the training rows hold no label")
        return found, MULTIPLE
    if kinds == {REGRESSION}:
        return ["LABEL_0"], REGRESSION
    found = _in_order(set(map(str, labels)))
    if len(found) < 2:
        raise InputError(f"the training rows hold one label only: {found[0]!r}; at least 2 are needed")
    return found, SINGLE


def _kind(label: Any) -> str:
    """The problem type of a label of text-classification."""
    return REGRESSION if isinstance(label, float) else MULTIPLE if isinstance(label, list) else SINGLE


def _in_order(names: Iterable[str]) -> list[str]:
    """Sorted; whole numbers as numbers: 10 comes after 9, not after 1."""
    try:
        return sorted(names, key=int)
    except ValueError:
        return sorted(names)


def check_split(
    train: Sequence[Document], held_out: Sequence[Document], task: Task, problem_type: str | None = None
) -> list[str]:
    """Raises InputError for texts on both sides of the split, and for held-out labels the training rows lack.

    Returns the labels that no held-out row has: nothing is measured of them.
    """
    first, learned = COLUMNS[task][0][0], COLUMNS[task][1]
    columns = (first, "text_pair") if task == "text-classification" else (first,)
    seen = {text_hash(*map(document.get, columns)) for document in train}
    shared = [n for n, document in enumerate(held_out) if text_hash(*map(document.get, columns)) in seen]
    if shared:
        raise InputError(
            f"{len(shared)} of {len(held_out)} evaluation rows have the {first} of a training row, "
            f"first row {shared[0]}"
        )
    for number, document in enumerate(held_out if task == "text-classification" else ()):
        if problem_type and (kind := _kind(document["label"])) != problem_type:
            raise InputError(
                f"evaluation row {number}: label {document['label']!r} is one of {kind}, those of the training rows "
                f"are of {problem_type}: write the labels of both as the same type"
            )
    if learned is None or problem_type == REGRESSION:
        return []
    known = {name for document in train for name in names(document, task)}
    for number, document in enumerate(held_out):
        if unknown := names(document, task) - known:
            raise InputError(f"evaluation row {number}: label {min(unknown)!r} is not in the training rows")
    return sorted(known - {name for document in held_out for name in names(document, task)})


def names(document: Document, task: Task) -> set[str]:
    """The labels of a document, as names; none where a task has no classes."""
    if task == "token-classification":
        return {entity["label"] for entity in document["entities"]}
    if task == "text-classification":
        return set(document["label"]) if isinstance(document["label"], list) else {str(document["label"])}
    return set()
