"""pipelines.score when something is wrong: it says what and where, ends with a status of its own, and loses nothing."""

import dataclasses
import json
import os
import re
import signal
import sys
import threading
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from jobs import CountCharacters, SaidSoFar, command, model_info, parts, records, write_corpus
from ray_session import ON_TWO_CPUS

from bigbird.errors import CheckpointError
from pipelines import score
from pipelines.scoring.actors import watch
from pipelines.scoring.actors.probe import missing
from pipelines.scoring.actors.score_rows import Stage, StagedScore
from pipelines.scoring.actors.score_unit import ScoreUnit
from pipelines.scoring.failures import ErrorCount, TooManyErrorsError
from pipelines.scoring.inputs.listing import list_inputs
from pipelines.scoring.inputs.reading import READ_ERROR, read_unit
from pipelines.scoring.inputs.units import REPLACES, cut_units
from pipelines.scoring.inputs.unreadable import ChangedInputError, UnreadableInputError
from pipelines.scoring.ledger.records import SUCCESS_FILE
from pipelines.scoring.schemas import output_schema, result_fields
from pipelines.scoring.storage import locate

pytestmark = ON_TWO_CPUS


@pytest.fixture
def stand_in(monkeypatch):
    """The command line with a stand-in in the place of every model."""

    def use(make):
        monkeypatch.setattr(score, "load_predictor", lambda *args, **kwargs: make(**kwargs))
        monkeypatch.setattr(score, "inspect_model", model_info)

    use(lambda **kwargs: CountCharacters(""))
    return use


def test_an_input_that_goes_fails_the_job_by_name_and_the_next_start_goes_on(stand_in, tmp_path, monkeypatch, capsys):
    """No row becomes an error because a disk, a mount or a network was away."""
    for name in "abc":
        write_corpus(tmp_path / "in" / f"{name}.parquet", ["some words"] * 20)
    gone = tmp_path / "in" / "b.parquet"
    err = SaidSoFar("to score", lambda: os.rename(gone, f"{gone}.away"))
    monkeypatch.setattr("sys.stderr", err)
    assert score.main(command(tmp_path)) == 1
    cause = r"failed: UnreadableInputError: .*b\.parquet.* \(read on node [\d.]+, 3 times\)\n"  # without Ray's advice
    assert re.search(cause, err.getvalue()), err.getvalue()
    assert "log: " in err.getvalue()
    assert "start it again" in err.getvalue()
    assert all(row["error"] is None for row in records(tmp_path).values())
    os.rename(f"{gone}.away", gone)
    assert score.main(command(tmp_path)) == 0
    assert sum(pq.read_metadata(tmp_path / "out" / name).num_rows for name in parts(tmp_path)) == 60
    assert (tmp_path / "out" / SUCCESS_FILE).exists()


def test_damaged_pages_cost_their_rows_and_changed_or_missing_files_raise(tmp_path):
    path = write_corpus(tmp_path / "in" / "a.parquet", [f"a text {number} " * 50 for number in range(25)])
    content = bytearray(path.read_bytes())
    content[300:900] = bytes(600)
    path.write_bytes(content)
    listing = list_inputs([str(path)])
    (unit,) = cut_units(listing.files, 10**6)
    rows = read_unit(unit, listing.filesystem, listing.schema)
    assert None not in rows[READ_ERROR].to_pylist()
    os.utime(path, ns=(1, 1))
    with pytest.raises(ChangedInputError, match=r"a\.parquet changed while the job reads it"):
        read_unit(unit, listing.filesystem, listing.schema)
    path.unlink()
    with pytest.raises(UnreadableInputError, match=r"a\.parquet"):
        read_unit(unit, listing.filesystem, listing.schema)


def test_a_node_that_lacks_a_file_says_which_and_a_job_is_refused_by_the_node(stand_in, tmp_path, monkeypatch, capsys):
    local = locate(str(tmp_path)).filesystem
    (tmp_path / "there").write_text("12345")
    found = missing([("input", (local, str(tmp_path / "there"), 5)), ("output", (local, str(tmp_path / "there"), 4))])
    assert found == [f"has another output at {tmp_path / 'there'}: 5 bytes, not 4"]
    absent = str(tmp_path / "elsewhere" / "config.json")
    info = dataclasses.replace(model_info("", "m"), files=((absent, 7),))
    monkeypatch.setattr(score, "inspect_model", lambda *args: info)
    write_corpus(tmp_path / "in" / "a.parquet", ["one"])
    assert score.main(command(tmp_path)) == 2
    assert re.search(rf"bigbird-score: node [\d.]+ has no model at {absent}", capsys.readouterr().err)
    assert parts(tmp_path) == {}


def test_rows_that_fail_in_masses_end_the_job_and_a_larger_share_goes_on(stand_in, tmp_path, capsys):
    write_corpus(tmp_path / "in" / "a.parquet", [None] * 20 + ["fine"] * 30)
    assert score.main(command(tmp_path)) == 1
    said = capsys.readouterr().err
    assert re.search(
        r"11 rows failed with InputError|1\d rows failed with InputError|20 rows failed with InputError", said
    )
    assert "more than --max-error-share 0.01 allows; row 0 of" in said or "allows; row" in said
    assert "start it again" not in said
    assert score.main(command(tmp_path, "--max-error-share", "0.5")) == 3
    assert sum(row["error"] is not None for row in records(tmp_path).values()) == 20


@pytest.mark.parametrize(
    ("share", "rows", "errors", "ends"),
    [
        *((None, 60, 10, False), (None, 60, 11, True), (None, 10_000, 100, False), (None, 10_000, 101, True)),
        *((0.0, 60, 1, True), (0.5, 60, 30, False), (0.5, 60, 31, True), (1.0, 60, 60, False)),
    ],
)
def test_the_share_of_errors_is_of_all_rows_and_by_kind(share, rows, errors, ends):
    count = ErrorCount(share, rows)
    count.add("other", {"errors": {"Other": errors - 1}} if errors > 1 else {})
    count.add("a", {"errors": {"Kind": errors - 1}} if errors > 1 else {})
    count.add("a", {"errors": {"Kind": errors - 1}} if errors > 1 else {})  # a file written again counts once
    if not ends:
        count.add("b", {"errors": {"Kind": 1}})
        return
    with pytest.raises(TooManyErrorsError, match="rows failed with Kind"):
        count.add("b", {"errors": {"Kind": 1}})


def test_a_model_that_no_actor_can_load_is_the_cause_and_starting_again_is_not_advised(stand_in, tmp_path, capsys):
    def load(weights=True, **kwargs):
        if weights:
            raise CheckpointError("model.safetensors is not what was hashed")
        return CountCharacters("")

    stand_in(load)
    write_corpus(tmp_path / "in" / "a.parquet", ["one"])
    assert score.main(command(tmp_path)) == 1
    said = capsys.readouterr().err
    assert "failed: CheckpointError: model.safetensors is not what was hashed\n" in said
    assert "start it again" not in said


def test_what_is_refused_with_overwrite_is_refused_before_anything_is_deleted(stand_in, tmp_path, capsys, monkeypatch):
    write_corpus(tmp_path / "in" / "a.parquet", ["one", "two"])
    assert score.main(command(tmp_path)) == 0
    before = parts(tmp_path)
    write_corpus(tmp_path / "in" / "b.parquet", ["one", "two"])
    model = [(str(tmp_path / "model"), 7)]
    for change, message in (
        (["--id-column", "id"], "id 0 occurs twice"),
        (["--num-actors", "50"], "50 actors of 1 CPUs"),
        (["--columns"], "has no model at"),
    ):
        blind = lambda *args: dataclasses.replace(model_info(*args), files=tuple(model))  # noqa: E731
        monkeypatch.setattr(score, "inspect_model", blind if message == "has no model at" else model_info)
        assert score.main(command(tmp_path, "--overwrite", *change)) == 2
        assert message in capsys.readouterr().err
        assert parts(tmp_path) == before
    assert not (tmp_path / "out.replaced").exists()
    assert score.main(command(tmp_path, "--output", str(tmp_path / "new"), "--num-actors", "50")) == 2
    assert not (tmp_path / "new").exists()


def test_another_model_or_other_options_are_another_run(stand_in, tmp_path, capsys):
    write_corpus(tmp_path / "in" / "a.parquet", ["one"])
    assert score.main([*command(tmp_path), "--limit", "1"]) == 0
    for change, difference in (
        (["--model", "other"], 'model was "m", is "other"'),
        (["--option", "num_passes=3"], "task_options was {"),
        (["--dtype", "bfloat16"], 'dtype was "float32"'),
        (["--columns", "id"], 'output_columns lost ["text: string"]'),
        (["--target-file-size", "1K"], "was begun with 150"),
    ):
        assert score.main([*command(tmp_path), *change]) == 2
        assert difference in capsys.readouterr().err


def test_a_file_that_vanishes_from_the_output_is_missed(stand_in, tmp_path, capsys):
    write_corpus(tmp_path / "in" / "a.parquet", ["some words"] * 60)

    class Deletes(CountCharacters):
        def forward(self, prepared):
            for path in sorted((tmp_path / "out").glob("part-*"))[:1]:
                path.unlink()
            return super().forward(prepared)

    stand_in(lambda **kwargs: Deletes(""))
    assert score.main(command(tmp_path)) == 1
    assert "rows are missing from" in capsys.readouterr().err
    assert not (tmp_path / "out" / SUCCESS_FILE).exists()


def test_a_unit_that_is_already_written_is_not_scored_again(tmp_path):
    path = write_corpus(tmp_path / "in" / "a.parquet", ["one", "two"])
    listing = list_inputs([str(path)])
    (unit,) = cut_units(listing.files, 10**6)
    rows = read_unit(unit, listing.filesystem, listing.schema)
    rows = rows.append_column(REPLACES, pa.nulls(2, pa.string()))
    results = result_fields("masked-lm-scoring")
    score_ = StagedScore(task="masked-lm-scoring", model="m", columns={"text": "text"}, results=results)
    stage = Stage(scores=[score_], load=lambda *args, **kwargs: CountCharacters(""))
    output = locate(str(tmp_path / "out"))
    os.mkdir(output.path)
    observer = watch.start_watch()
    scorer = ScoreUnit(stage, output, "run", output_schema(listing.schema, {"": results}), observer, 1.0)
    first = scorer(rows)
    scorer.scorer.predictors = None
    again = scorer(rows)
    assert again["part"].equals(first["part"])
    # What the file itself cannot say is the writer's alone.
    (told,), (wrote,) = (map(json.loads, answer["summary"].to_pylist()) for answer in (again, first))
    assert told == {name: value for name, value in wrote.items() if name != "sha256"}
    (name,) = first["part"].to_pylist()
    (tmp_path / "out" / name).write_bytes(b"PAR1 cut short")
    assert scorer._written(name) is None, "a damaged file is done again"
    ray.kill(observer)


def test_two_drivers_at_once_compute_once(stand_in, tmp_path, capsys):
    class Slow(CountCharacters):
        def forward(self, prepared):
            time.sleep(0.5)
            return super().forward(prepared)

    stand_in(lambda **kwargs: Slow(""))
    write_corpus(tmp_path / "in" / "a.parquet", ["some words"] * 60)
    refused = []

    def second():
        while not (tmp_path / "out").exists() or not parts(tmp_path):
            time.sleep(0.05)
        refused.append(score.main(command(tmp_path)))

    other = threading.Thread(target=second)
    other.start()
    assert score.main(command(tmp_path)) == 0
    other.join()
    assert refused == [2]
    assert "is being written by process" in capsys.readouterr().err
    assert len(records(tmp_path)) == 60


def test_a_job_that_is_terminated_says_so_and_the_next_start_goes_on(stand_in, tmp_path, monkeypatch):
    write_corpus(tmp_path / "in" / "a.parquet", ["one"])
    err = SaidSoFar("to score", lambda: os.kill(os.getpid(), signal.SIGTERM))
    monkeypatch.setattr("sys.stderr", err)
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))  # as `ray.init` does
    try:
        assert score.main(command(tmp_path)) == 1
    finally:
        signal.signal(signal.SIGTERM, before)
    assert err.getvalue().endswith("bigbird-score: stopped; start it again with the same command to continue\n")
    assert score.main(command(tmp_path)) == 0


def test_an_unknown_share_is_refused(stand_in, tmp_path, capsys):
    write_corpus(tmp_path / "in" / "a.parquet", ["one"])
    assert score.main(command(tmp_path, "--max-error-share", "2")) == 2
    assert "max_error_share is 2.0, expected 0 to 1" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
