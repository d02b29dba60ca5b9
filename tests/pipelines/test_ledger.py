"""ledger.ledger, with the units of inputs.listing: what is done, what is left, what is refused."""

import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import FINGERPRINT, begin, rows_of, write

from bigbird.errors import InputError
from pipelines.scoring.inputs.reading import read_unit
from pipelines.scoring.inputs.units import SOURCE_FILE, SOURCE_ROW, InputFile, cut_units
from pipelines.scoring.ledger.parts import part_name, read_footer, read_parts, rows_in_order
from pipelines.scoring.ledger.ranges import merge_ranges, ranges_of, subtract
from pipelines.scoring.storage import locate


@pytest.fixture
def corpus(tmp_path):
    """Three files of 10 rows in row groups of 4."""
    for number in range(3):
        path = tmp_path / "in" / f"{number}.parquet"
        path.parent.mkdir(exist_ok=True)
        rows = list(range(10 * number, 10 * number + 10))
        table = pa.table({"id": rows, "text": [f"text {row}" * 10 for row in rows]})
        pq.write_table(table, path, row_group_size=4)
    return tmp_path / "in"


GROUPS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 5000)), max_size=5)


@given(st.lists(GROUPS, max_size=5), st.integers(1, 3000), st.one_of(st.none(), st.integers(1, 100)))
@settings(max_examples=200, deadline=None)
def test_units_hold_every_row_once_and_a_limit_keeps_the_first(groups_of_files, unit_bytes, limit):
    files = [
        InputFile(name=f"{n:02}", path=f"{n:02}", size=0, mtime_ns=0, groups=tuple(groups))
        for n, groups in enumerate(groups_of_files)
    ]
    every = [(file.name, row) for file in files for row in range(file.rows)]
    assert rows_of(cut_units(files, unit_bytes, limit=limit)) == every[:limit]


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 60), st.integers(1, 20)), max_size=8),
    st.integers(1, 400),
)
@settings(max_examples=200, deadline=None)
def test_what_is_left_and_what_is_done_are_all_rows_once(done, unit_bytes):
    files = [InputFile(name=name, path=name, size=0, mtime_ns=0, groups=((40, 400), (25, 90))) for name in "ab"]
    units = cut_units(files, unit_bytes)
    ranges = merge_ranges((name, start, min(start + length, 65)) for name, start, length in done if start < 65)
    finished = {(name, row) for name, spans in ranges.items() for start, stop in spans for row in range(start, stop)}
    left = rows_of(subtract(units, ranges))
    assert len(left) == len(set(left))
    assert set(left) == set(rows_of(units)) - finished


@given(st.sets(st.tuples(st.sampled_from(["x", "y"]), st.integers(0, 50)), min_size=1))
@settings(max_examples=100, deadline=None)
def test_origins_reduce_to_ranges_and_back(origins):
    files, rows = zip(*origins, strict=True)
    ranges = ranges_of(pa.array(files), pa.array(rows))
    assert sorted((name, row) for name, start, stop in ranges for row in range(start, stop)) == sorted(origins)


def test_a_second_start_has_left_what_the_first_did_not_finish(corpus, tmp_path):
    ledger, listing = begin(corpus, tmp_path / "out")
    units = ledger.units_left(listing)
    assert sum(unit.rows for unit in units) == 30
    for unit in units[::2]:
        write(ledger, listing, unit)
    again, listing = begin(corpus, tmp_path / "out")
    assert rows_of(again.units_left(listing)) == rows_of(units[1::2])
    assert again.num_done == 30 - sum(unit.rows for unit in units[1::2])
    for unit in again.units_left(listing):
        write(again, listing, unit)
    finished, listing = begin(corpus, tmp_path / "out")
    assert finished.units_left(listing) == []
    assert sorted(pq.read_table(tmp_path / "out")["id"].to_pylist()) == list(range(30))


def test_the_same_rows_get_the_same_file_on_every_start(corpus, tmp_path):
    first, listing = begin(corpus, tmp_path / "out")
    names = [write(first, listing, unit) for unit in first.units_left(listing)]
    late, listing = begin(corpus, tmp_path / "other")
    assert [write(late, listing, unit) for unit in late.units_left(listing)] == names


def test_a_size_of_units_given_later_does_not_move_their_bounds(corpus, tmp_path):
    first, listing = begin(corpus, tmp_path / "out", unit_bytes=200)
    second, _ = begin(corpus, tmp_path / "out", unit_bytes=10_000)
    assert rows_of(second.units_left(listing)) == rows_of(first.units_left(listing))
    assert len(second.units_left(listing)) == len(first.units_left(listing)) > 3


def test_a_limit_can_be_lifted(corpus, tmp_path):
    ledger, listing = begin(corpus, tmp_path / "out")
    for unit in ledger.units_left(listing, limit=7):
        write(ledger, listing, unit)
    again, listing = begin(corpus, tmp_path / "out")
    assert again.units_left(listing, limit=7) == []
    assert sum(unit.rows for unit in again.units_left(listing)) == 23


def test_a_half_written_file_is_not_seen_and_goes_on_the_next_start(corpus, tmp_path):
    ledger, _ = begin(corpus, tmp_path / "out")
    (tmp_path / "out" / f".{part_name(ledger.run, [('a.parquet', 0, 4)])}.0123abcd.tmp").write_bytes(b"PAR1 half")
    again, _ = begin(corpus, tmp_path / "out")
    assert again.num_done == 0
    assert sorted(os.listdir(tmp_path / "out")) == [".bigbird-inputs.parquet", ".bigbird-run.parquet"]


def test_another_model_or_other_options_are_refused_by_name(corpus, tmp_path):
    begin(corpus, tmp_path / "out")
    other = {**FINGERPRINT, "model": "xyz", "dtype": "bfloat16"}
    with pytest.raises(InputError, match=r'dtype was "float32", is "bfloat16"; model was "abc", is "xyz"'):
        begin(corpus, tmp_path / "out", fingerprint=other)


def test_added_inputs_are_scored_and_leave_the_units_of_the_others_alone(corpus, tmp_path):
    ledger, listing = begin(corpus, tmp_path / "out", unit_bytes=5000)
    (first, *_) = ledger.units_left(listing)
    pq.write_table(pa.table({"id": [100], "text": ["before all others"]}), corpus / "00.parquet")
    again, listing = begin(corpus, tmp_path / "out", unit_bytes=5000)
    units = again.units_left(listing)
    assert units[0] == first
    assert sum(unit.rows for unit in units) == 31


def test_a_directory_of_somebody_else_is_refused(corpus, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"'thesis\.txt' but is not the output of a scoring job"):
            begin(corpus, tmp_path / "out", overwrite=overwrite)
    assert (tmp_path / "out" / "thesis.txt").exists()


def test_an_output_that_cannot_be_written_is_refused(corpus, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        begin(corpus, tmp_path / "file" / "out")


def test_rows_that_are_there_twice_are_refused(corpus, tmp_path):
    ledger, listing = begin(corpus, tmp_path / "out")
    (unit, *_) = ledger.units_left(listing)
    name = write(ledger, listing, unit)
    content = (tmp_path / "out" / name).read_bytes()
    (tmp_path / "out" / "part-copy.parquet").write_bytes(content)
    with pytest.raises(InputError, match=r"row 0 of .*0\.parquet' twice, in part-.*delete one"):
        begin(corpus, tmp_path / "out")


def test_a_part_of_another_run_is_refused(corpus, tmp_path):
    begin(corpus, tmp_path / "out")
    stranger, listing = begin(corpus, tmp_path / "other", fingerprint={**FINGERPRINT, "model": "xyz"})
    name = write(stranger, listing, stranger.units_left(listing)[0])
    os.rename(tmp_path / "other" / name, tmp_path / "out" / name)
    with pytest.raises(InputError, match="belongs to another run"):
        begin(corpus, tmp_path / "out")


def test_a_part_rewritten_by_another_tool_is_refused(corpus, tmp_path):
    ledger, listing = begin(corpus, tmp_path / "out")
    path = tmp_path / "out" / write(ledger, listing, ledger.units_left(listing)[0])
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)
    with pytest.raises(InputError, match="was not written by a scoring job"):
        begin(corpus, tmp_path / "out")


def test_rows_that_failed_for_a_passing_cause_are_left_and_bad_rows_are_done(corpus, tmp_path):
    ledger, listing = begin(corpus, tmp_path / "out", unit_bytes=5000)
    units = ledger.units_left(listing)
    passing = write(ledger, listing, units[0], failing={2, 3, 11})
    for unit in units[1:]:
        write(ledger, listing, unit, failing={25}, kind="InputError")
    again, listing = begin(corpus, tmp_path / "out", unit_bytes=5000)
    (retry,) = again.units_left(listing)
    assert retry.replaces == passing
    assert [row for _, row in rows_of([retry])] == [2, 3, 1]
    assert read_unit(retry, listing.filesystem, listing.schema)["id"].to_pylist() == [2, 3, 11]


def test_the_footer_says_which_rows_a_file_holds(corpus, tmp_path):
    ledger, listing = begin(corpus, tmp_path / "out", unit_bytes=5000)
    name = write(ledger, listing, ledger.units_left(listing)[0])
    footer = read_footer(locate(str(tmp_path / "out" / name)))
    table = pq.read_table(tmp_path / "out" / name)
    assert footer.run == ledger.run
    assert list(footer.ranges) == ranges_of(table[SOURCE_FILE], table[SOURCE_ROW])
    assert read_parts(ledger.output) == {name: footer}
    assert json.loads(footer.dumps())["summary"] == {"retryable": 0}


def test_rows_are_read_in_the_order_of_the_input_whatever_was_written_first_and_without_damaged_files(corpus, tmp_path):
    ledger, listing = begin(corpus / "0.parquet", tmp_path / "out")
    units = ledger.units_left(listing)
    assert len(units) > 2
    names = [write(ledger, listing, unit) for unit in reversed(units)]
    assert [row["id"] for row in rows_in_order(ledger.output)] == list(range(10))
    (tmp_path / "out" / names[0]).write_bytes(b"no Parquet")
    left = [row["id"] for row in rows_in_order(ledger.output)]
    assert left == [row for _, row in rows_of(units[:-1])]
