"""inputs.paths: which files a path, a folder or a glob is, and what is said of the others."""

import os
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bigbird.errors import InputError
from pipelines.scoring.inputs.listing import list_inputs
from pipelines.scoring.inputs.paths import find_files, holds


@pytest.fixture
def folder(tmp_path):
    names = ["train.parquet", "pretrain.parquet", "data[1].parquet", "run [v2]/x.parquet", "k=1/000000_0"]
    for name in [*names, "deep/er/train.parquet", "deep/y.jsonl", "train.parquet.d/z.parquet"]:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("jsonl"):
            path.write_text('{"text": "a"}')
        else:
            pq.write_table(pa.table({"text": ["a"]}), path)
    for name in ("_SUCCESS", "README.md", "dataset_infos.json", "notes.json", "deep/.hidden.parquet", "LICENSE"):
        (tmp_path / "in" / name).write_text("{}")
    return tmp_path / "in"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("data[1].parquet", ["data[1].parquet"]),
        ("run [v2]", ["run [v2]/x.parquet"]),
        ("run [[]v2]/*", ["run [v2]/x.parquet"]),
        ("**/train.parquet", ["deep/er/train.parquet", "train.parquet"]),
        ("*train.parquet", ["pretrain.parquet", "train.parquet"]),
        ("deep*", ["deep/er/train.parquet", "deep/y.jsonl"]),
        ("k=*", ["k=1/000000_0"]),
        ("**/er/**", ["deep/er/train.parquet"]),
        ("[dr]*/?.*", ["deep/y.jsonl", "run [v2]/x.parquet"]),
    ],
)
def test_a_path_that_exists_is_that_path_and_a_glob_matches_name_by_name(folder, given, expected):
    assert sorted(path[len(f"{folder}/") :] for path in find_files([str(folder / given)]).files) == expected


def test_a_folder_is_all_that_is_data_below_it_and_the_rest_is_counted_and_named(folder):
    listing = list_inputs([str(folder)])
    assert len(listing.files) == 8
    assert listing.schema.field("k").type == pa.int64()
    assert "not read: 6 files, " in listing.notes[-1]
    assert "LICENSE'" in listing.notes[-1]


@pytest.mark.parametrize(
    ("mark", "reader"),
    [("_delta_log/0.json", "read_delta"), ("metadata/v1.metadata.json", "read_iceberg"), (".hoodie/x", "read_hudi")],
)
def test_a_table_with_a_reader_of_its_own_is_refused_with_its_name_unless_a_glob_asks_for_its_files(
    folder, mark, reader
):
    (folder / mark).parent.mkdir()
    (folder / mark).write_text("{}")
    with pytest.raises(InputError, match=re.escape(f"ray.data.{reader}")):
        find_files([str(folder)])
    assert find_files([str(folder / "*.parquet")]).files


def test_links_in_a_circle_and_names_that_are_no_text_cost_nothing(folder):
    (folder / "deep" / "er" / "up").symlink_to(folder)
    Path(os.fsdecode(os.fsencode(folder) + b"/bad\xff.parquet")).write_bytes(b"PAR1")
    found = find_files([str(folder)])
    assert len(found.files) == 8
    assert any(name.endswith("bad\\xff.parquet") for name in found.skipped)


def test_a_file_that_several_names_lead_to_is_read_once_as_in_the_cache_of_the_hub(tmp_path):
    for folder in ("blobs", "snapshots/a", "snapshots/b"):
        (tmp_path / folder).mkdir(parents=True)
    pq.write_table(pa.table({"text": ["a", "b"]}), tmp_path / "blobs" / "0123abcd")
    (tmp_path / "blobs" / "4567").write_text('{"text": "c"}')
    for snapshot in ("a", "b"):
        (tmp_path / "snapshots" / snapshot / "x.parquet").symlink_to("../../blobs/0123abcd")
    (tmp_path / "snapshots" / "b" / "y.jsonl").symlink_to("../../blobs/4567")
    found = find_files([str(tmp_path), str(tmp_path / "snapshots" / "b" / "x.parquet")])
    assert {Path(path).relative_to(tmp_path).as_posix() for path in found.files} == {
        "snapshots/a/x.parquet",
        "snapshots/b/y.jsonl",
    }
    assert len(found.skipped) == 3


def test_a_link_to_nothing_is_refused_where_it_would_be_read_and_a_pipe_is_not_read(folder):
    os.mkfifo(folder / "pipe.parquet")
    (folder / "note").symlink_to("/nowhere")
    assert [name for name in find_files([str(folder)]).skipped if "pipe" in name]
    (folder / "gone.parquet").symlink_to("/nowhere.parquet")
    for given in ("", "*.parquet"):
        with pytest.raises(InputError, match=r"gone\.parquet' is not there: a link leads to nothing"):
            find_files([str(folder / given)])


def test_a_folder_without_data_says_what_is_in_it(tmp_path):
    for name in ("data-0.arrow", "state.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(InputError, match=r"no Parquet or JSON lines file .*; not read: 2 files, '.*data-0\.arrow'"):
        find_files([str(tmp_path)])


def test_an_output_below_an_input_is_seen_through_folders_and_globs(folder):
    part = str(folder / "out" / "part-0.parquet")
    inside = ("", "**", "*", "*/*.parquet", "out", "**/*.parquet")
    assert [holds(str(folder / given), part) for given in inside] == [True] * len(inside)
    outside = ("deep", "*.parquet", "run [v2]", "**/train.parquet", "train.parquet")
    assert [holds(str(folder / given), part) for given in outside] == [False] * len(outside)
