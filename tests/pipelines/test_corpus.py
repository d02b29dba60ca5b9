"""The corpus builder: what is in a corpus, in which order, and what is left out and said so."""

import os
import sysconfig
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bigbird.errors import InputError
from pipelines import corpus
from pipelines.corpus import Document, Skipped, file_documents, main, python_documents, write_corpus


@pytest.fixture
def standard_library(tmp_path, monkeypatch):
    """A folder that plays the standard library: the real one is a second of reading for every test."""
    root = tmp_path / "lib"
    for path, content in {
        "json/decoder.py": b"def decode():\r\n    return '\xc3\xa9'\r\n",
        "ast.py": b"import sys\n",
        "latin.py": b"# coding: latin-1\nname = '\xe9'\n",
        "empty/__init__.py": b"",
        "bad_bytes.py": b"name = '\xff\xfe'\n",
        "bad_name.py": b"# coding: no-such-encoding\n",
        "test/test_ast.py": b"import ast\n",
        "idlelib/idle_test/test_run.py": b"import idlelib\n",
        "site-packages/torch/__init__.py": b"installed = True\n",
        "pydoc_data/topics.py": b"topics = {}\n",
        "notes.txt": b"no source\n",
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: {"stdlib": str(root)}[name])
    return root


def test_sources_come_in_path_order_with_their_exact_text_and_then_the_topics(standard_library):
    documents = [document for document in python_documents() if isinstance(document, Document)]
    sources = [document for document in documents if document.kind == "source"]
    topics = [document for document in documents if document.kind == "topic"]
    assert documents == sources + topics
    assert [source.path for source in sources] == ["ast.py", "empty/__init__.py", "json/decoder.py", "latin.py"]
    assert sources[2].text == "def decode():\r\n    return 'é'\r\n"
    assert sources[3].text == "# coding: latin-1\nname = 'é'\n"
    assert [topic.path for topic in topics] == sorted(topic.path for topic in topics)
    assert "pydoc_data/topics/assert" in {topic.path for topic in topics}
    assert all(topic.text for topic in topics)


def test_undecodable_sources_are_left_out_and_named(standard_library):
    skipped = [document for document in python_documents() if isinstance(document, Skipped)]
    assert [skip.path for skip in skipped] == ["bad_bytes.py", "bad_name.py"]
    assert all(skip.reason for skip in skipped)


def test_tests_come_only_when_asked_for_and_installed_packages_never(standard_library):
    default = {document.path for document in python_documents()}
    with_tests = {document.path for document in python_documents(include_tests=True)}
    assert with_tests - default == {"test/test_ast.py", "idlelib/idle_test/test_run.py"}
    assert not any("site-packages" in path for path in with_tests)


def test_the_command_writes_the_running_interpreter_once_and_the_same_every_time(tmp_path, capsys):
    first, second = tmp_path / "made" / "first.parquet", tmp_path / "second.parquet"
    assert main(["--python-docs", str(first)]) == 0
    assert main(["--python-docs", str(second)]) == 0
    assert first.read_bytes() == second.read_bytes()
    table = pq.read_table(first)
    assert table.schema.equals(corpus.SCHEMA)
    rows = table.to_pylist()
    assert len(rows) > 500
    assert len({row["id"] for row in rows}) == len(rows)
    by_path = {row["path"]: row for row in rows}
    decoder = Path(sysconfig.get_path("stdlib"), "json/decoder.py").read_bytes().decode()
    assert by_path["json/decoder.py"] == {
        "id": "source:json/decoder.py",
        "path": "json/decoder.py",
        "kind": "source",
        "text": decoder,
    }
    assert f"{len(rows):,} documents" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["first.parquet", "second.parquet"]


def test_files_takes_what_the_pattern_matches_and_names_what_is_no_text(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for path, content in {"b.md": "\ufeffβ", "a/deep/c.md": "c\r\n", "a/other.txt": "no"}.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(content.encode())
    Path("a/image.md").write_bytes(b"\x89PNG\xff")
    Path("folder.md").mkdir()
    assert main(["--files", "**/*.md", "out.parquet"]) == 0
    rows = pq.read_table("out.parquet").to_pylist()
    assert [(row["id"], row["kind"], row["text"]) for row in rows] == [
        ("file:a/deep/c.md", "file", "c\r\n"),
        ("file:b.md", "file", "β"),
    ]
    assert "skipped a/image.md" in capsys.readouterr().err


def test_odd_names_and_links_neither_stop_a_corpus_nor_swell_it(tmp_path, capsys):
    folder = tmp_path / "in" / "run [v2]"
    (folder / "deep").mkdir(parents=True)
    for name in ("a.txt", "deep/b.txt", "data[1].txt", ".hidden.txt"):
        (folder / name).write_text(name)
    Path(os.fsdecode(os.fsencode(folder) + b"/bad\xff.txt")).write_text("text")
    for name in ("loop", "deep/up", "deep/again"):
        (folder / name).symlink_to(folder)
    (folder / "dead.txt").symlink_to(folder / "nothing")
    output = tmp_path / "out.parquet"
    assert main(["--files", str(tmp_path / "**" / "*.txt"), str(output)]) == 0
    found = [Path(path).name for path in pq.read_table(output)["path"].to_pylist()]
    assert found == ["a.txt", "data[1].txt", "b.txt"]
    assert "bad\\udcff.txt: 'utf-8' codec can't encode" in capsys.readouterr().err
    assert main(["--files", str(folder / "data[1].txt"), str(output)]) == 0
    assert pq.read_table(output)["text"].to_pylist() == ["data[1].txt"]


def test_a_pattern_without_files_is_one_clear_line_and_leaves_the_output_alone(tmp_path, capsys):
    output = tmp_path / "out.parquet"
    output.write_bytes(b"what was there")
    with pytest.raises(InputError, match="matches at least one file"):
        next(file_documents(str(tmp_path / "*.nothing")))
    assert main(["--files", str(tmp_path / "*.nothing"), str(output)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert output.read_bytes() == b"what was there"
    assert list(tmp_path.iterdir()) == [output]


def test_the_options_that_contradict_each_other_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["--files", "*.md", str(tmp_path / "out.parquet"), "--include-tests"])
    assert "--python-docs" in capsys.readouterr().err


def test_row_groups_bound_what_is_held_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "ROW_GROUP_CHARS", 100)
    documents = [Document(kind="file", path=str(number), text="x" * 60) for number in range(5)]
    summary = write_corpus(documents, tmp_path / "out.parquet")
    written = pq.ParquetFile(tmp_path / "out.parquet")
    assert [written.metadata.row_group(i).num_rows for i in range(written.num_row_groups)] == [2, 2, 1]
    assert summary.num_chars == 300
    assert summary.num_documents == {"file": 5}
