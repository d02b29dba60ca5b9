"""What is not offered says so by name: the table of docs/transformers.md, line by line, and names of transformers."""

import importlib
import re
from pathlib import Path

import pytest
import transformers

import bigbird

PAGE = (Path(__file__).parents[1] / "docs" / "transformers.md").read_text(encoding="utf-8")
LINE = re.compile(r"^\| `(?P<asked>[^`]+)` \| [^|]+ \| `(?P<error>\w+): (?P<message>[^`]+)` \|$", re.MULTILINE)
TABLE = PAGE.partition("Not offered, and what to use")[2].partition("\n#")[0]


@pytest.mark.parametrize("line", list(LINE.finditer(TABLE)), ids=lambda line: line["asked"])
def test_every_line_of_the_table_gives_the_error_it_says(line, tiny_checkpoint):
    names = {name: getattr(bigbird, name) for name in bigbird.__all__}
    names |= {"bigbird": bigbird, "directory": tiny_checkpoint(bigbird.BigBirdForMaskedLM)}
    names["model"] = bigbird.BigBirdForMaskedLM.from_pretrained(names["directory"])
    names["tokenizer"] = bigbird.BigBirdTokenizer.from_pretrained(names["directory"])
    with pytest.raises(Exception, match=re.escape(line["message"])) as raised:
        exec(line["asked"], names)
    assert type(raised.value).__name__ == line["error"]


def test_every_line_of_the_table_is_read():
    lines = [line for line in TABLE.splitlines() if line.startswith("| `")]
    assert len(lines) == len(LINE.findall(TABLE))


def test_transformers_names_of_bigbird_are_offered_or_refused_with_what_to_use():
    module = importlib.import_module("transformers.models.big_bird")
    ours = [name for name in dir(transformers) if "BigBird" in name] + [n for n in dir(module) if "BigBird" in n]
    ours += [name for name in dir(transformers) if name.startswith("AutoModel")]
    ours += ["pipeline", "Trainer", "TFBigBirdModel", "FlaxBigBirdForMaskedLM", "TextStreamer"]
    for name in ours:
        if name not in bigbird.__all__:
            with pytest.raises(ImportError, match=f"bigbird has no {name}: "):
                getattr(bigbird, name)


def test_other_names_are_missing_as_from_any_module():
    with pytest.raises(AttributeError, match="module 'bigbird' has no attribute 'BirdBig'"):
        bigbird.BirdBig  # noqa: B018
    assert not hasattr(bigbird, "__version_info__")


@pytest.mark.parametrize("name", [name for name in bigbird.__all__ if name.startswith("Auto")])
def test_auto_names_are_the_bigbird_class_of_that_name(name):
    assert getattr(bigbird, name).__name__ == name.replace("Auto", "BigBird").replace("BigBirdModelFor", "BigBirdFor")
