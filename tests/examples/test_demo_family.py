"""The shipped checkpoints work, and the labels they learned from are exact."""

import importlib.util
import itertools
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bigbird.checkpoint import load_model
from bigbird.predictors import load_predictor
from bigbird.tokenization.tokenizer import BigBirdTokenizer
from examples.demo_family.code_entities import Index, entities
from examples.demo_family.corpus_split import PARTS, Document, part_of
from examples.demo_family.hidden_lines import opening_lines, passage
from examples.demo_family.rows import TASKS, rows_of
from examples.demo_family.run import steps

CHECKPOINTS = Path(__file__).parents[2] / "checkpoints"
WEIGHTS = "model.safetensors"
SHIPPED = tuple(sorted(path.parent.name for path in CHECKPOINTS.glob("*/config.json")))


def labelled(text: str, index: Index | None = None) -> list[tuple[str, str]]:
    return [(text[e.start : e.end], e.label) for e in entities(text, "here.py", index)]


def test_a_use_has_the_label_of_the_definition_in_its_scope() -> None:
    text = "def area(width):\n    return width * factor\nwidth = factor = 2\nprint(area(width))\n"
    assert labelled(text) == [
        ("area", "FUNCTION"),
        ("width", "PARAMETER"),
        ("width", "PARAMETER"),
        ("print", "FUNCTION"),
        ("area", "FUNCTION"),
    ]


def test_offsets_are_characters_behind_text_that_is_not_ascii() -> None:
    text = "größe = '東京 🦜'; import os.path as größer\ndef π(ñandú): return größer, '🦜', ñandú\n"
    assert labelled(text) == [
        ("os.path", "MODULE"),
        ("größer", "MODULE"),
        ("π", "FUNCTION"),
        ("ñandú", "PARAMETER"),
        ("größer", "MODULE"),
        ("ñandú", "PARAMETER"),
    ]


def test_an_exception_is_one_by_descent_not_by_name() -> None:
    text = "class Lost(KeyError): pass\nclass Gone(Lost): pass\nclass NotAnError: pass\nraise Gone\n"
    assert labelled(text) == [
        ("Lost", "EXCEPTION"),
        ("KeyError", "EXCEPTION"),
        ("Gone", "EXCEPTION"),
        ("Lost", "EXCEPTION"),
        ("NotAnError", "CLASS"),
        ("Gone", "EXCEPTION"),
    ]


def test_receivers_attributes_keywords_and_f_strings_carry_no_label() -> None:
    text = "class A:\n    def put(self, item):\n        self.put(item=item.put)\n        return f'{item}'\n"
    assert labelled(text) == [("A", "CLASS"), ("put", "FUNCTION"), ("item", "PARAMETER"), ("item", "PARAMETER")]


def test_class_scope_is_not_seen_from_its_methods() -> None:
    text = "class A:\n    def size(self): return size\n    alias = size\n"
    assert labelled(text) == [("A", "CLASS"), ("size", "FUNCTION"), ("size", "FUNCTION")]


def test_an_imported_name_is_what_its_module_defines() -> None:
    index = Index(
        [
            ("pack/__init__.py", "from .shapes import Square as Box\nfrom .shapes import draw\n"),
            ("pack/shapes.py", "class Square: pass\ndef draw(): pass\nlimit = 3\n"),
        ]
    )
    text = "from pack import Box, draw, shapes\nfrom pack.shapes import limit\nfrom elsewhere import Other\n"
    assert labelled(text, index) == [
        ("pack", "MODULE"),
        ("Box", "CLASS"),
        ("draw", "FUNCTION"),
        ("shapes", "MODULE"),
        ("pack.shapes", "MODULE"),
        ("elsewhere", "MODULE"),
    ]


@pytest.mark.parametrize("module", ["argparse", "dataclasses", "typing", "contextlib"])
def test_entities_of_real_sources_are_names_in_order(module: str) -> None:
    text = Path(__import__(module).__file__).read_text()
    found = entities(text)
    assert len(found) > 200
    assert all(text[e.start : e.end].replace(".", "").isidentifier() for e in found)
    assert all(left.end <= right.start for left, right in itertools.pairwise(found))


def test_the_split_depends_on_the_text_alone() -> None:
    parts = [part_of(f"text {number}") for number in range(2000)]
    assert {parts.count(part) // 20 for part in PARTS} <= {*range(80, 101), *range(3, 8)}
    assert parts == [part_of(f"text {number}") for number in range(2000)]


def test_the_shipped_family_is_small_and_finite() -> None:
    files = [path for name in SHIPPED for path in (CHECKPOINTS / name).iterdir()]
    assert sum(path.stat().st_size for path in files) < 40e6
    for name in SHIPPED:
        model = load_model(CHECKPOINTS / name, check_finite=True)
        assert model.config.max_position_embeddings == 4096
        assert all(weight.dtype == torch.float16 for weight in load_file(CHECKPOINTS / name / WEIGHTS).values())


@pytest.mark.parametrize("name", SHIPPED)
def test_every_card_states_figures_and_the_command_that_gives_them(name: str) -> None:
    card = (CHECKPOINTS / name / "README.md").read_text()
    assert "python -m examples.demo_family.evaluate" in card
    assert "aseline" in card


def test_an_identifier_is_made_of_whole_tokens() -> None:
    tokenizer = BigBirdTokenizer.from_pretrained(CHECKPOINTS / "fill-mask")
    text = "class Größe(Base):\n        def __init__(self, x_1=0):\n                pass\n"
    encoding = tokenizer.encode_batch(text, add_special_tokens=False)
    for entity in entities(text):
        covered = [(a, b) for a, b in encoding.offsets if a < entity.end and b > entity.start]
        assert (covered[0][0], covered[-1][1]) == (entity.start, entity.end)
    assert tokenizer.decode(encoding.ids) == text
    assert len(encoding.ids) < len(text) / 2


def test_fill_mask_knows_the_receiver_of_a_method() -> None:
    predictor = load_predictor("fill-mask", CHECKPOINTS / "fill-mask")
    text = (
        "class Reader:\n    def close(self):\n        self.file.close()\n\n    def open([MASK], name):\n        pass\n"
    )
    (record,) = predictor([text])
    assert "self" in [candidate["token_str"].strip() for candidate in record["masks"][0]["candidates"]]


def test_the_tagger_finds_entities_of_a_source_it_has_not_seen() -> None:
    predictor = load_predictor("token-classification", CHECKPOINTS / "token-classification")
    text = "import os\n\n\ndef list_parrots(folder):\n    if not folder:\n        raise ValueError(folder)\n"
    (record,) = predictor([text])
    found = {(text[e["start"] : e["end"]], e["entity_group"]) for e in record["entities"]}
    assert {("os", "MODULE"), ("ValueError", "EXCEPTION")} <= found
    assert ("folder", "PARAMETER") in found


def test_a_hidden_line_has_the_kind_of_its_statement() -> None:
    text = "import os\n\ndef f(x):\n    y = os.open(x,\n                1)\n    if y:\n        return y\n"
    assert opening_lines(text) == [(0, "import"), (2, "definition"), (5, "if"), (6, "return")]
    assert "    [MASK]\n        return y" in passage(text.split("\n"), 5)


@pytest.mark.parametrize("task", ["question-answering", "multiple-choice", "text-classification"])
def test_rows_are_made_alike_every_time_and_answers_stand_where_they_say(task: str) -> None:
    text = Path(__import__("argparse").__file__).read_text()
    documents = [Document(path="argparse.py", kind="source", text=text)]
    rows = rows_of(task, documents)
    assert rows
    assert rows == rows_of(task, documents)
    for row in rows:
        if task == "question-answering":
            (answer,), (start,) = row["answers"]["text"], row["answers"]["answer_start"]
            assert row["context"][start : start + len(answer)] == answer
        elif task == "multiple-choice":
            assert row["prompt"] + row["choices"][row["label"]] in text
        else:
            assert row["text"].count("[MASK]") == 1


def test_the_recipe_names_modules_that_are_there_and_ends_with_every_head_measured() -> None:
    commands = [command for _, command in steps()]
    for module in {command[0] for command in commands}:
        assert importlib.util.find_spec(module) is not None, module
    assert sorted(command[2] for command in commands if command[0].endswith("evaluate")) == sorted(TASKS)
