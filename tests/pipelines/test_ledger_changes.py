"""What costs which files: inputs that changed or went, damaged files, --overwrite, a full disk; and `_SUCCESS`."""

import os
import resource

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ledgers import FINGERPRINT, begin, rows_of, write

from bigbird.errors import InputError
from pipelines.scoring.ledger.ledger import MissingRowsError
from pipelines.scoring.ledger.records import INPUTS_FILE, RUN_FILE, SUCCESS_FILE, read_record
from pipelines.scoring.storage import locate, write_whole


@pytest.fixture
def corpus(tmp_path):
    """Three files of 10 rows in row groups of 5."""
    (tmp_path / "in").mkdir()
    for number in range(3):
        table = pa.table({"id": range(10 * number, 10 * number + 10), "text": ["some text " * 10] * 10})
        pq.write_table(table, tmp_path / "in" / f"{number}.parquet", row_group_size=5, use_dictionary=False)
    return tmp_path / "in"


def finished(corpus, output):
    """A finished output whose files hold rows of one input each; their names by input."""
    ledger, listing = begin(corpus, output, unit_bytes=800)
    names = {}
    for unit in ledger.units_left(listing):
        (file,) = {piece.file.name.rpartition("/")[2] for piece in unit.pieces}
        names.setdefault(file, []).append(write(ledger, listing, unit))
    ledger.finish(listing)
    assert (output / SUCCESS_FILE).exists()
    return names


def rewrite(path):
    pq.write_table(pa.table({"id": [100], "text": ["new"]}), path)


def touch(path):
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize(("change", "left"), [(rewrite, 1), (touch, 10), (os.unlink, 0)])
def test_an_input_that_changed_costs_its_own_files_and_no_other(corpus, tmp_path, change, left):
    out = tmp_path / "out"
    names = finished(corpus, out)
    change(corpus / "1.parquet")
    ledger, listing = begin(corpus, out)
    assert "1.parquet' " in ledger.notes[0]
    assert f"done again: {len(names['1.parquet'])} files with 10 rows" in ledger.notes[0]
    assert {file for file, _ in rows_of(ledger.units_left(listing))} == ({str(corpus / "1.parquet")} if left else set())
    assert len(rows_of(ledger.units_left(listing))) == left
    assert sorted(ledger.parts) == sorted(names["0.parquet"] + names["2.parquet"])
    again, _ = begin(corpus, out)
    assert again.notes == [], "the next start knows the input as it is now"
    for unit in ledger.units_left(listing):
        write(ledger, listing, unit)
    ledger.finish(listing)
    assert len(pq.read_table(out)) == 20 + left
    assert not (tmp_path / "out.replaced").exists()


def test_many_inputs_that_changed_are_told_in_few_lines_and_files_that_hold_several_go_once(corpus, tmp_path):
    for number in range(3, 30):
        pq.write_table(pa.table({"id": [100 + number], "text": ["some text"]}), corpus / f"{number}.parquet")
    ledger, listing = begin(corpus, tmp_path / "out", unit_bytes=10_000)
    names = [write(ledger, listing, unit) for unit in ledger.units_left(listing)]
    assert len(names) < 29
    for path in corpus.iterdir():
        if path.name != "0.parquet":
            touch(path)
    ledger, listing = begin(corpus, tmp_path / "out")
    assert len(ledger.notes) == 11
    assert ledger.notes[-1] == "and 19 more inputs that changed or went"
    assert len(rows_of(ledger.units_left(listing))) + ledger.num_done == listing.rows


def test_an_output_of_other_inputs_is_refused(corpus, tmp_path):
    names = finished(corpus, tmp_path / "out")
    (tmp_path / "others").mkdir()
    rewrite(tmp_path / "others" / "a.parquet")
    with pytest.raises(InputError, match=r"begun with other inputs: .*0\.parquet'"):
        begin(tmp_path / "others", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").glob("part-*")) == sorted(
        n for p in names.values() for n in p
    )


def test_a_damaged_file_is_done_again(corpus, tmp_path):
    names = finished(corpus, tmp_path / "out")
    damaged = names["1.parquet"][0]
    path = tmp_path / "out" / damaged
    path.write_bytes(path.read_bytes()[:-20])
    ledger, listing = begin(corpus, tmp_path / "out")
    assert damaged in ledger.notes[0]
    (unit,) = ledger.units_left(listing)
    assert write(ledger, listing, unit) == damaged
    assert (tmp_path / "out.replaced" / damaged).exists()
    ledger.finish(listing)
    assert len(pq.read_table(tmp_path / "out")) == 30


def test_success_says_that_the_whole_is_done(corpus, tmp_path):
    ledger, listing = begin(corpus, tmp_path / "out")
    for unit in ledger.units_left(listing, limit=7):
        write(ledger, listing, unit)
    ledger.finish(listing, limit=7)
    assert not (tmp_path / "out" / SUCCESS_FILE).exists()
    with pytest.raises(MissingRowsError, match="23 of 30 rows are missing"):
        ledger.finish(listing)
    for unit in ledger.units_left(listing):
        write(ledger, listing, unit)
    ledger.finish(listing)
    assert read_record(ledger.output, SUCCESS_FILE) == {"rows": 30}
    rewrite(corpus / "3.parquet")
    begin(corpus, tmp_path / "out")
    assert not (tmp_path / "out" / SUCCESS_FILE).exists(), "there is more to do now"


def test_overwrite_moves_what_another_run_left_and_deletes_it_last(corpus, tmp_path):
    out = tmp_path / "out"
    names = finished(corpus, out)
    (out / "sub").mkdir()
    (out / "sub" / "notes.txt").write_text("keep")
    replaced = tmp_path / "out.replaced"
    replaced.mkdir()
    (replaced / "mine.txt").write_text("keep")
    other = {**FINGERPRINT, "model": "new"}
    anew, listing = begin(corpus, out, fingerprint=other, overwrite=True)
    assert anew.num_done == 0
    assert {path.name for path in replaced.glob("part-*")} == {n for p in names.values() for n in p}
    for unit in anew.units_left(listing):
        write(anew, listing, unit)
    anew.finish(listing)
    assert [path.name for path in replaced.iterdir()] == ["mine.txt"], "what the job did not put there stays"
    assert (out / "sub" / "notes.txt").read_text() == "keep"


def test_overwrite_again_goes_on_with_what_is_not_finished_and_replaces_what_is(corpus, tmp_path):
    out = tmp_path / "out"
    ledger, listing = begin(corpus, out, overwrite=True)
    units = ledger.units_left(listing)
    write(ledger, listing, units[0])
    again, listing = begin(corpus, out, overwrite=True)
    assert again.num_done == units[0].rows
    for unit in again.units_left(listing):
        write(again, listing, unit)
    again.finish(listing)
    anew, listing = begin(corpus, out, overwrite=True)
    assert anew.num_done == 0
    for unit in anew.units_left(listing):
        write(anew, listing, unit)
    anew.finish(listing)
    assert not (tmp_path / "out.replaced").exists()


@pytest.mark.parametrize("name", [RUN_FILE, INPUTS_FILE])
@pytest.mark.parametrize("content", [b"", b"no Parquet"])
def test_a_damaged_record_is_named_and_overwrite_starts_anew(corpus, tmp_path, name, content):
    out = tmp_path / "out"
    ledger, listing = begin(corpus, out)
    write(ledger, listing, ledger.units_left(listing)[0])
    (out / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"out/{name}' is damaged: .*; --overwrite starts anew"):
        begin(corpus, out)
    anew, listing = begin(corpus, out, overwrite=True)
    assert anew.num_done == 0
    assert len(list((tmp_path / "out.replaced").glob("part-*"))) == 1


def test_a_disk_that_is_full_leaves_no_temporary_file_and_says_which_file_it_was(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="part-a"):
            write_whole(locate(str(tmp_path / "part-a")), bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == []
