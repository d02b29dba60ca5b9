"""finetuning.formats: labelled rows in the forms that people have them, as documents."""

import json

import datasets
import hypothesis.strategies as st
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given

from bigbird import BigBirdForMaskedLM
from pipelines import finetune
from pipelines.finetuning.documents import check_documents, find_labels
from pipelines.finetuning.formats import find_format
from pipelines.finetuning.plan import read_documents


def documents(rows, task):
    form = find_format(rows, task, None)
    return [form.document(row, f"train, row {number}") for number, row in enumerate(rows)]


def spans(document):
    return [(document["text"][e["start"] : e["end"]], e["label"]) for e in document["entities"]]


def tagged(entities, scheme):
    """Words and tags of entities, each (label or None, its words), written in a scheme."""
    words, tags, before = [], [], None
    for label, count in entities:
        for number in range(count):
            words.append(f"w{len(words)}")
            first, last = number == 0, number == count - 1
            if label is None:
                tags.append("O")
            elif scheme == "BIO":
                tags.append(f"{'B' if first else 'I'}-{label}")
            elif scheme == "IOB1":
                tags.append(f"{'B' if first and before == label else 'I'}-{label}")
            else:
                single, end = ("U", "L") if scheme == "BILOU" else ("S", "E")
                tags.append(f"{single if first and last else 'B' if first else end if last else 'I'}-{label}")
        before = label
    return {"tokens": words, "ner_tags": tags}


@given(
    st.lists(st.tuples(st.sampled_from(["PER", "ORG", None]), st.integers(1, 3)), min_size=1, max_size=6),
    st.sampled_from(["BIO", "IOB1", "BILOU", "BIOES"]),
)
def test_every_scheme_of_tags_gives_the_entities_it_was_made_of(entities, scheme):
    (document,) = documents([tagged(entities, scheme)], "token-classification")
    words = iter(document["text"].split())
    expected = [(" ".join(next(words) for _ in range(count)), label) for label, count in entities]
    assert spans(document) == [(text, label) for text, label in expected if label]


def test_labels_that_only_look_as_if_they_had_a_place_are_whole():
    rows = [{"words": ["a", "b"], "tags": ["B-cell", "T-cell"]}, {"words": ["c"], "tags": ["B-cell"]}]
    assert [spans(d) for d in documents(rows, "token-classification")] == [
        [("a", "B-cell"), ("b", "T-cell")],
        [("c", "B-cell")],
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_numbers_have_the_names_that_datasets_gave_them(tmp_path):
    tags = datasets.ClassLabel(names=["O", "B-PER", "I-PER"])
    features = {"tokens": datasets.List(datasets.Value("string")), "ner_tags": datasets.List(tags)}
    rows = {"tokens": [["Ada", "Lovelace", "wrote"]], "ner_tags": [[1, 2, 0]]}
    datasets.Dataset.from_dict(rows, datasets.Features(features)).to_parquet(tmp_path / "tags.parquet")
    (document,), _ = read_documents(str(tmp_path / "tags.parquet"), "train", "token-classification")
    assert spans(document) == [("Ada Lovelace", "PER")]
    features = {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    found = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, datasets.Features(features))
    found.to_parquet(tmp_path / "labels.parquet")
    rows, _ = read_documents(str(tmp_path / "labels.parquet"), "train", "text-classification")
    assert [row["label"] for row in rows] == ["pos", "neg"]


TEXT = "Ada wrote to Charles"
ENTITIES = [(0, 3, "PER"), (13, 20, "PER")]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("entities", [dict(zip(("start", "end", "label"), e, strict=True)) for e in ENTITIES]),
        ("entities", [dict(zip(("start", "end", "entity_group"), e, strict=True)) for e in ENTITIES]),
        ("entities", json.dumps(ENTITIES)),
        ("entities", json.dumps({"entities": ENTITIES})),
        ("entities", [json.dumps(entity) for entity in ENTITIES]),
        ("spans", [[str(part) for part in entity] for entity in ENTITIES]),
        ("label", ENTITIES),
        ("labels", json.dumps([dict(zip(("start", "end", "type"), e, strict=True)) for e in ENTITIES])),
    ],
)
def test_spans_are_read_in_every_form(column, value):
    (document,) = documents([{"text": TEXT, column: value}], "token-classification")
    check_documents([document], "token-classification", "train")
    assert spans(document) == [("Ada", "PER"), ("Charles", "PER")]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([[1, 0], [0, 1], [0, 0]], [["LABEL_0"], ["LABEL_1"], []]),
        ([[True, True], [False, True]], [["LABEL_0", "LABEL_1"], ["LABEL_1"]]),
        ([[0], [1], [0, 1]], [["0"], ["1"], ["0", "1"]]),
        ([["a"], ["b", "a"]], [["a"], ["b", "a"]]),
        ([3, 7], ["3", "7"]),
        ([0.5, 1.0], [0.5, 1.0]),
    ],
)
def test_labels_of_texts_are_names_numbers_lists_of_names_or_indicators(labels, expected):
    found = documents([{"text": "x", "labels": label} for label in labels], "text-classification")
    assert [document["label"] for document in found] == expected
    find_labels(found, "text-classification")


@pytest.mark.parametrize("answers", [{"text": ["Ada"], "answer_start": [0]}, [{"text": "Ada", "answer_start": 0}]])
def test_answers_are_read_as_columns_as_a_list_and_as_json(answers):
    for form in (answers, json.dumps(answers)):
        (document,) = documents([{"question": "who", "context": TEXT, "answers": form}], "question-answering")
        assert document["answers"] == {"text": ["Ada"], "answer_start": [0]}


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        (
            "token-classification",
            {"text": "a", "entities": [{"start": 0, "label": "X"}]},
            "row 0: entities has {'start'",
        ),
        ("token-classification", {"text": "a", "entities": "none"}, "row 0: entities is 'none', expected a list"),
        ("token-classification", {"text": "a", "entities": [["0.5", "1", "X"]]}, "row 0: entities has"),
        ("token-classification", {"words": ["a"], "tags": [1]}, "row 0: tags[0] is 1, expected a name; numbers need"),
        ("token-classification", {"words": ["a"], "tags": [None]}, "row 0: tags[0] is None, expected a name"),
        ("token-classification", {"words": ["a", "b"], "tags": ["O"]}, "row 0: 2 words need as many tags, found 1"),
        ("token-classification", {"words": ["a", " "], "tags": ["O", "O"]}, "row 0: words[1] is ' ', expected a word"),
        ("token-classification", {"text": 5, "entities": []}, "row 0: text is 5, expected a string"),
        ("text-classification", {"text": "a", "label": {"x": 1}}, "row 0: label is {'x': 1}, expected a name"),
        ("multiple-choice", {"prompt": "a", "choices": "bc", "label": 0}, "row 0: choices is 'bc', expected a list"),
        ("question-answering", {"question": "a", "context": "b", "answers": {"text": ["b"]}}, "row 0: answers is"),
    ],
)
def test_what_is_not_understood_is_one_line_of_row_and_column(tiny_checkpoint, tmp_path, capsys, task, row, message):
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "train.parquet")
    model = str(tiny_checkpoint(BigBirdForMaskedLM))
    arguments = ["--task", task, "--model", model, "--output", str(tmp_path / "out")]
    data = [argument for name in ("--train", "--eval") for argument in (name, str(tmp_path / "train.parquet"))]
    assert finetune.main([*arguments, *data]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"train, {message}" in line
