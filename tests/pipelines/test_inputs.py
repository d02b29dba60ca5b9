"""inputs.listing, reading and storage: files of every kind people have, on disks and on an S3 server."""

import gzip
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from object_store import s3_bucket

from bigbird.errors import InputError
from pipelines.scoring.inputs.listing import list_inputs
from pipelines.scoring.inputs.reading import READ_ERROR, read_unit
from pipelines.scoring.inputs.units import SOURCE_FILE, SOURCE_ROW, InputFile, Unit, cut_units, size_of_units
from pipelines.scoring.ledger.ledger import open_output
from pipelines.scoring.ledger.parts import Footer, part_name, read_parts, write_part
from pipelines.scoring.ledger.ranges import ranges_of
from pipelines.scoring.storage import locate, names_in, read_whole, write_whole


def write(path, rows, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(rows), path, **options)
    return str(path)


PACKED = {".gz": gzip.compress, "zst": lambda content: bytes(pa.compress(content, "zstd"))}


def read_all(listing, unit_bytes=100):
    units = cut_units(listing.files, unit_bytes)
    return pa.concat_tables(read_unit(unit, listing.filesystem, listing.schema) for unit in units)


def test_files_folders_and_globs_name_the_same_files_once(tmp_path):
    files = [write(tmp_path / "in" / name, {"text": ["a"]}) for name in ("a.parquet", "b.parquet", "deep/c.parquet")]
    write(tmp_path / "in" / "_temporary" / "d.parquet", {"text": ["a"]})
    write(tmp_path / "in" / ".hidden.parquet", {"text": ["a"]})
    (tmp_path / "in" / "README.md").write_text("not data")
    assert [file.name for file in list_inputs([str(tmp_path / "in")]).files] == files
    assert [file.name for file in list_inputs([str(tmp_path / "in"), files[0]]).files] == files
    assert [file.name for file in list_inputs([str(tmp_path / "in" / "*.parquet")]).files] == files[:2]
    assert [file.name for file in list_inputs([str(tmp_path / "in" / "**" / "[bc].parquet")]).files] == files[1:]


def test_rows_come_with_their_origin_whatever_the_units(tmp_path):
    for name in "ab":
        rows = [f"{name}{number}" * 20 for number in range(50)]
        write(tmp_path / f"{name}.parquet", {"text": rows}, row_group_size=17)
    listing = list_inputs([str(tmp_path)])
    for unit_bytes in (1, 150, 700, 10_000):
        table = read_all(listing, unit_bytes)
        columns = (table[name].to_pylist() for name in (SOURCE_FILE, SOURCE_ROW, "text"))
        found = {(file[-9], row): text for file, row, text in zip(*columns, strict=True)}
        assert table.num_rows == len(found) == 100
        assert all(text.startswith(f"{name}{row}") for (name, row), text in found.items())


def test_few_documents_keep_every_actor_at_work(tmp_path):
    write(tmp_path / "a.parquet", {"text": [f"word {number:2}" * 800 for number in range(32)]})  # 180 kB
    files = list_inputs([str(tmp_path)]).files
    counts = [len(cut_units(files, size_of_units(files, "cpu", actors))) for actors in (1, 2, 100)]
    assert all(8 <= count <= 12 for count in counts)  # a hundred actors: none smaller than 16 KiB
    assert size_of_units(files, "cuda", 2) > 180_000


def test_units_are_several_an_actor_bounded_in_number_and_in_files():
    """`groups` are (rows, bytes); nothing of these files exists."""

    def files(number, rows, size):
        groups = ((rows, size),)
        return [InputFile(name=f"{n}", path=f"{n}", size=size, mtime_ns=0, groups=groups) for n in range(number)]

    some = files(1000, 10_000, 5 << 20)
    assert len(cut_units(some, size_of_units(some, "cuda", 200))) >= 1600
    many = files(100, 1_000_000, 10 << 30)
    assert size_of_units(many, "cpu", 2) == 1000 * (10 << 30) // 10 // 50_000
    tiny = files(4000, 2, 100)
    units = cut_units(tiny, size_of_units(tiny, "cpu", 2))
    assert len(units) == 125
    assert sum(unit.rows for unit in units) == 8000


def test_partition_columns_are_typed_by_all_their_values(tmp_path):
    write(tmp_path / "lang=en" / "year=2001" / "a.parquet", {"text": ["x"]})
    write(tmp_path / "lang=de%20at" / "year=__HIVE_DEFAULT_PARTITION__" / "a.parquet", {"text": ["y"]})
    write(tmp_path / "lang=fr" / "year=1999" / "a.parquet", {"text": ["z"]})
    listing = list_inputs([str(tmp_path)])
    assert [listing.schema.field(name).type for name in ("lang", "year")] == [pa.string(), pa.int64()]
    rows = read_all(listing).select(["text", "lang", "year"]).to_pylist()
    assert {row["text"]: (row["lang"], row["year"]) for row in rows} == {
        "x": ("en", 2001),
        "y": ("de at", None),
        "z": ("fr", 1999),
    }


def test_dictionaries_structs_and_wider_types_in_another_file_are_read(tmp_path):
    text = pa.array(["a", "b", "a"]).dictionary_encode()
    write(tmp_path / "a.parquet", {"text": text, "n": pa.array([1, 2, 3], pa.int32()), "doc": [{"x": 1}] * 3})
    write(tmp_path / "b.parquet", {"text": text, "n": pa.array([2**40] * 3, pa.int64()), "doc": [{"x": 1}] * 3})
    table = read_all(list_inputs([str(tmp_path)]))
    assert table["n"].to_pylist() == [1, 2, 3, *[2**40] * 3]
    assert table["text"].to_pylist() == ["a", "b", "a"] * 2
    assert table["doc"].to_pylist() == [{"x": 1}] * 6


def test_a_damaged_page_makes_rows_with_errors_and_the_rest_is_read(tmp_path):
    path = tmp_path / "a.parquet"
    rows = [f"{number} " * 200 for number in range(40)]
    write(path, {"text": rows}, row_group_size=20, compression="zstd", use_dictionary=False)
    column = pq.read_metadata(path).row_group(0).column(0)
    content = bytearray(path.read_bytes())
    begin = column.data_page_offset
    content[begin + 40 : begin + column.total_compressed_size] = b"\xff" * (column.total_compressed_size - 40)
    path.write_bytes(content)
    table = read_all(list_inputs([str(path)]), unit_bytes=10**6 // 400)
    errors = table[READ_ERROR].to_pylist()
    assert table.num_rows == 40
    assert [error is not None for error in errors] == [True] * 20 + [False] * 20
    assert table["text"].to_pylist() == [None] * 20 + rows[20:]


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.jsonl.gz", "a.json.zst"])
def test_json_lines_are_read_blank_and_damaged_lines_included(tmp_path, name):
    lines = [json.dumps({"text": f"text {n}", "tags": ["x"], "n": n}) for n in range(20)]
    lines[7] = '{"text": "cut'
    lines[9] = json.dumps({"text": 9, "tags": [], "n": 9})
    lines.insert(3, "   ")
    content = "\n".join(lines).encode()
    (tmp_path / name).write_bytes(PACKED.get(name[-3:], bytes)(content))
    table = read_all(list_inputs([str(tmp_path / name)], read={"text": "text"}))
    assert table[SOURCE_ROW].to_pylist() == list(range(20))
    bad = [row for row, error in enumerate(table[READ_ERROR].to_pylist()) if error]
    assert bad == [7, 9]
    assert table["n"].to_pylist() == [None if n == 7 else n for n in range(20)]
    assert table["text"].to_pylist() == [None if n in bad else f"text {n}" for n in range(20)]
    assert table["tags"].to_pylist()[0] == ["x"]


def test_no_line_whatever_it_holds_stops_a_listing_or_is_read_as_another(tmp_path):
    lines = ['{"text": "a", "n": 1e99999999999999999999}', '{"\\ud800": 1}', '{"text": "c"}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    (tmp_path / "b.jsonl").write_text('{"text": 5}\n')  # of a file without any text the others know nothing
    pq.write_table(pa.table({"text": ["d"]}), tmp_path / "c.parquet")
    pq.write_table(pa.table({"n": pa.array([], pa.int32())}), tmp_path / "d.parquet")  # no row lacks anything
    table = read_all(list_inputs([str(tmp_path)], read={"text": "text"}))
    assert table["text"].to_pylist() == ["a", None, "c", None, "d"]
    assert [error is not None for error in table[READ_ERROR].to_pylist()] == [False, True, False, True, False]
    assert table["n"].to_pylist() == ["1e99999999999999999999", None, None, None, None]


def test_a_string_is_no_list_of_its_characters(tmp_path):
    lines = ['{"prompt": "p", "choices": ["a", "b"]}', '{"prompt": "q", "choices": "ab"}']
    for name, content in (("one", lines), ("two", lines[1:])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(content))
    table = read_all(list_inputs([str(tmp_path)], read={"prompt": "prompt", "choices": "choices"}))
    assert table["choices"].to_pylist() == [["a", "b"], None, None]
    assert [error is not None for error in table[READ_ERROR].to_pylist()] == [False, True, True]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_lines_of_another_encoding_are_refused_and_never_read_in_part(tmp_path, encoding):
    (tmp_path / "a.jsonl").write_bytes('{"text": "a"}\n{"text": "b"}\n'.encode(encoding))
    with pytest.raises(InputError, match="is not JSON lines"):
        list_inputs([str(tmp_path)])


def test_a_line_whose_text_stands_in_no_struct_is_an_error_and_its_neighbours_are_read(tmp_path):
    lines = ['{"doc": {"body": "a"}}', '{"doc": "b"}', '{"doc": ["c"]}', '{"doc": null}', '{"doc": {"body": "e"}}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    table = read_all(list_inputs([str(tmp_path)], read={"text": "doc.body"}))
    assert table["doc"].to_pylist() == [{"body": "a"}, None, None, None, {"body": "e"}]
    assert [error is not None for error in table[READ_ERROR].to_pylist()] == [False, True, True, False, False]


def test_files_of_json_lines_may_lack_columns_and_be_empty_and_times_stay_text(tmp_path):
    files = {
        "a": '{"text": "2020-01-01"}\n{"text": "2021-01-01"}',
        "b": "",
        "c": '{"text": "x", "n": 1}\n[{"text": "y"}, {"text": "z"}]\n{"text": "u", "text": "v"}',
    }
    for name, content in files.items():
        (tmp_path / f"{name}.jsonl").write_text(content)
    table = read_all(list_inputs([str(tmp_path)]))
    assert table["text"].to_pylist()[:3] == ["2020-01-01", "2021-01-01", "x"]
    assert table["n"].to_pylist() == [None, None, 1, None, None]
    assert [error is not None for error in table[READ_ERROR].to_pylist()] == [False, False, False, True, True]


@pytest.mark.parametrize("content", ['[{"text": "a"}, {"text": "b"}]', '{\n "text": "a"\n}'])
def test_json_that_is_not_lines_is_refused(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match=r"a\.json' is not JSON lines: expected one object a line"):
        list_inputs([str(tmp_path)])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "nowhere", "does not exist"),
        (lambda folder: folder, "no Parquet or JSON lines file in"),
        (lambda folder: folder / "*.parquet", "matches no file"),
        (lambda folder: folder / "text.txt", "neither Parquet nor JSON lines by its name"),
    ],
)
def test_inputs_that_hold_nothing_to_read_are_refused(tmp_path, make, message):
    (tmp_path / "text.txt").write_text("text")
    with pytest.raises(InputError, match=re.escape(message)):
        list_inputs([str(make(tmp_path))])


def test_an_unknown_filesystem_is_refused():
    with pytest.raises(InputError, match="'nofs://x/y' cannot be opened"):
        list_inputs(["nofs://x/y"])


def test_a_file_that_is_written_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    place = locate(str(tmp_path / "a"))
    write_whole(place, b"first")
    with pytest.raises(TypeError):
        write_whole(place, None)
    assert read_whole(place) == b"first"
    write_whole(place, b"second")
    assert read_whole(place) == b"second"
    assert read_whole(locate(str(tmp_path / "nothing"))) is None


@pytest.fixture(scope="module")
def s3():
    with s3_bucket() as uri:
        yield uri


def test_a_bucket_is_read_and_is_a_ledger_like_a_folder(s3):
    for name in ("a", "b"):
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"id": range(30), "text": ["text" * 9] * 30}), sink, row_group_size=7)
        write_whole(locate(s3(f"in/lang={name}/x.parquet")), sink.getvalue())
    listing = pickle.loads(pickle.dumps(list_inputs([s3("in")])))
    assert [file.name for file in listing.files] == [f"s3://bucket/in/lang={name}/x.parquet" for name in "ab"]
    assert [file.name for file in list_inputs([s3("in/lang=*/x.parquet")]).files] == [f.name for f in listing.files]
    start = {"fingerprint": {"task": "t"}, "listing": listing, "schema": listing.schema, "unit_bytes": 200}
    ledger = open_output(locate(s3("out")), **start)
    for unit in ledger.units_left(listing)[::2]:
        rows = read_unit(unit, listing.filesystem, listing.schema)
        ranges = tuple(ranges_of(rows[SOURCE_FILE], rows[SOURCE_ROW]))
        write_part(ledger.output, part_name(ledger.run, ranges), rows, Footer(ledger.run, ranges, {}))
    again = open_output(locate(s3("out")), **start)
    done = sum(stop - start for footer in read_parts(again.output).values() for _, start, stop in footer.ranges)
    left = again.units_left(listing)
    assert 0 < done < 60
    assert done == again.num_done == 60 - sum(unit.rows for unit in left)
    anew = open_output(locate(s3("out")), **{**start, "fingerprint": {"task": "u"}}, overwrite=True)
    assert anew.num_done == 0
    assert names_in(locate(s3("out"))) == [".bigbird-inputs.parquet", ".bigbird-run.parquet"]


def test_names_in_a_bucket_may_hold_what_a_uri_has_no_room_for(s3):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": ["a"]}), sink)
    place = locate(s3("odd"))
    for name in ("a b", "x#1", "data[1]"):
        write_whole(place.child(f"{name}.parquet"), sink.getvalue())
    for given in ("a b", "x#1", "data[1]"):
        (file,) = list_inputs([s3(f"odd/{given}.parquet")]).files
        assert file.name == f"s3://bucket/odd/{given}.parquet"
    assert len(list_inputs([s3("odd/?[ #]?.parquet")]).files) == 2


def test_a_missing_bucket_is_refused_in_one_line(s3):
    with pytest.raises(InputError, match="s3://nowhere"):
        list_inputs([s3("x").replace("bucket/x", "nowhere/x")])


def test_a_unit_travels_light_and_reads_the_same(tmp_path):
    write(tmp_path / "a.parquet", {"text": [str(number) for number in range(500)]}, row_group_size=2)
    listing = list_inputs([str(tmp_path)])
    (unit,) = cut_units(listing.files, 10**6)
    bare = pickle.loads(pickle.dumps(unit.without_groups))
    assert isinstance(bare, Unit)
    assert len(pickle.dumps(bare)) < 500 < len(pickle.dumps(unit))
    assert read_unit(bare, listing.filesystem, listing.schema) == read_unit(unit, listing.filesystem, listing.schema)


def test_processes_that_read_do_not_load_the_model_library():
    code = "import sys, pipelines.scoring.inputs.reading; assert not {'bigbird', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
