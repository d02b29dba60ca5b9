"""pipelines.score: the job from end to end on Ray, with a stand-in for the predictor where the model is no matter."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from jobs import CountCharacters, SaidSoFar, command, model_info, parts, records, write_corpus
from ray_session import ON_TWO_CPUS

from bigbird import BigBirdForMaskedLM, BigBirdForTokenClassification
from bigbird.errors import CheckpointError
from pipelines import score
from pipelines.scoring import progress
from pipelines.scoring.job import run_job
from pipelines.scoring.plan import Job

NUM_ROWS = 60
FACTS = {"num_windows": 1, "truncated": False}

pytestmark = ON_TWO_CPUS


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """The command line with the stand-in in the place of every model."""
    marker = str(tmp_path / "marker")
    monkeypatch.setattr(score, "load_predictor", lambda *args, **kwargs: CountCharacters(marker))
    monkeypatch.setattr(score, "inspect_model", model_info)


ROWS = [f"{'word ' * (number % 7)}{number}" for number in range(NUM_ROWS)]
ROWS[23], ROWS[29], ROWS[37], ROWS[41] = None, "raises", "memory", "kills"


@pytest.fixture(scope="module")
def starts(two_cpus, tmp_path_factory):
    """One corpus, four starts of one job: the first 20 rows, the rest, again with memory to spare, and again."""
    folder = tmp_path_factory.mktemp("starts")
    marker = str(folder / "memory-is-back")
    write_corpus(folder / "in" / "year=2001" / "a.parquet", ROWS, lang=["en"] * NUM_ROWS)
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(score, "load_predictor", lambda *args, **kwargs: CountCharacters(marker))
        patch.setattr(score, "inspect_model", model_info)
        for number, more in enumerate((["--limit", "20"], [], [], [])):
            out, err = io.StringIO(), io.StringIO()
            patch.setattr("sys.stdout", out)
            patch.setattr("sys.stderr", err)
            if number == 2:
                (folder / "memory-is-back").touch()
            if number == 3:
                (folder / "out.report.html").unlink()  # as if the start before was killed just then
            status = score.main(command(folder, *more))
            assert status == (0 if number == 0 else 3), err.getvalue()
            seen.append((records(folder), parts(folder), out.getvalue(), err.getvalue()))
    return folder, seen


def test_a_limit_keeps_the_first_rows(starts):
    _, ((found, _, out, _), *_) = starts
    assert sorted(found) == list(range(20))
    assert "documents  20" in out


def test_every_row_is_in_the_output_once_with_its_own_columns(starts):
    folder, (_, (found, _, out, err), *_) = starts
    assert [found[number]["text"] for number in range(NUM_ROWS)] == ROWS
    assert list(found[5])[:4] == ["id", "text", "lang", "year"]
    assert found[5]["nll"] == len(ROWS[5]) / 3
    assert found[5]["error"] is None
    assert (found[5]["lang"], found[5]["year"]) == ("en", 2001)
    assert found[5]["source_file"] == str(folder / "in" / "year=2001" / "a.parquet")
    assert found[5]["source_row"] == 5
    assert "documents  40\nbefore     20" in out
    assert "errors     4  (InputError 1, MemoryError 1, ProcessDied 1, RuntimeError 1)" in out
    assert str(folder / "out") in out
    assert "60 rows; 20 done before, 40 to score" in err


def test_a_bad_row_has_its_error_and_its_neighbours_have_none(starts):
    _, (_, (found, *_), *_) = starts
    errors = {number: row["error"] for number, row in found.items() if row["error"]}
    assert errors.pop(41)["type"] == "ProcessDied"
    assert errors == {
        23: {"type": "InputError", "message": "text is null, expected a string", "retryable": False},
        29: {"type": "RuntimeError", "message": "no luck with this one", "retryable": False},
        37: {"type": "MemoryError", "message": "not now", "retryable": True},
    }


def test_all_files_have_the_declared_schema(starts):
    folder, (_, (_, files, *_), *_) = starts
    schemas = {str(pq.read_schema(folder / "out" / name).remove_metadata()) for name in files}
    assert len(files) > 2
    assert len(schemas) == 1


def test_a_second_start_leaves_finished_files_alone(starts):
    _, ((_, first, *_), (_, second, *_), *_) = starts
    assert first.items() <= second.items()


def test_a_row_that_failed_for_a_passing_cause_is_scored_by_the_next_start_and_no_other(starts):
    _, (_, (before, old, *_), (after, new, out, _), _) = starts
    assert after[37]["nll"] == len("memory") / 3
    assert {key: row for key, row in after.items() if key != 37} == {k: r for k, r in before.items() if k != 37}
    assert old.keys() == new.keys()
    assert sum(old[name] != new[name] for name in old) == 1
    assert "before     60 were done by earlier starts" in out


def test_a_finished_job_started_again_touches_nothing(starts):
    folder, (*_, (_, old, *_), (_, new, out, _)) = starts
    assert old == new
    assert "documents  0" in out
    assert (folder / "out.report.html").exists()


def test_a_job_that_waits_for_cpus_says_so_and_goes_on_when_they_are_free(stand_in, monkeypatch, tmp_path):
    @ray.remote(num_cpus=2)
    class Occupant:
        def is_there(self):
            return True

    occupant = Occupant.remote()
    assert ray.get(occupant.is_there.remote())
    write_corpus(tmp_path / "in" / "a.parquet", ["one"])
    monkeypatch.setattr(progress, "INTERVAL_S", 0.5)
    err = SaidSoFar("waiting for an actor (0.9 CPUs, 0 of 2 are free in the cluster)", lambda: ray.kill(occupant))
    monkeypatch.setattr("sys.stderr", err)
    assert score.main([*command(tmp_path), "--num-cpus-per-actor", "1"]) == 0, err.getvalue()
    assert err._then is None, "it waited, and said for what"
    assert len(records(tmp_path)) == 1


def test_json_lines_are_read_and_a_damaged_line_keeps_its_place(stand_in, tmp_path):
    lines = [json.dumps({"id": number, "text": f"text {number}", "kind": "x"}) for number in range(12)]
    lines[4] = '{"id": 4, "text": '
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text("\n".join(lines))
    assert score.main(command(tmp_path, "--columns", "id")) == 3
    rows = pq.read_table(tmp_path / "out").sort_by("source_row").to_pylist()
    assert list(rows[0])[:2] == ["id", "nll"]
    assert [row["id"] for row in rows] == [*range(4), None, *range(5, 12)]
    assert (rows[4]["error"]["type"], rows[4]["error"]["retryable"]) == ("ReadError", False)
    assert [row["nll"] for row in rows[5:]] == [len(f"text {number}") / 3 for number in range(5, 12)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--task", "summarization"], "task 'summarization' is not known; the tasks are fill-mask"),
        (["--text-column", "body"], "column 'body' is not in the input; its columns are id, text"),
        (["--text-column", "id"], "column 'id' has type int64; expected string"),
        (["--input", "/nowhere/at/all"], "input '/nowhere/at/all' does not exist"),
        (["--columns", "lang"], "columns 'lang' are not in the input; its columns are id, text"),
        (["--option", "num_passes=many"], "option num_passes='many': expected int"),
        (["--option", "top_k=3"], "option 'top_k=3': expected NAME=VALUE with one of"),
        (["--limit", "0"], "limit is 0, expected at least 1"),
        (["--num-actors", "0"], "num_actors is 0, expected more than 0"),
        (["--num-actors", "9"], "9 actors of 1 CPUs, 0 GPUs and 0.0 GiB each: the cluster holds 2"),
        (
            ["--num-gpus-per-actor", "1"],
            "no node holds an actor of 1 CPUs, 1 GPUs and 0.0 GiB; the largest",
        ),
        (["--min-actors", "1"], "min_actors and max_actors go together"),
        (["--target-file-size", "huge"], "size 'huge': expected a number with K, M or G"),
        (["--id-column", "text"], "id column 'text' is null in row 23 of"),
        (["--output", "/proc/nowhere"], "output '/proc/nowhere' cannot be written"),
        (["--output", "/proc/self/cwd"], "folder of report and receipt '/proc/self' cannot be written"),
        (["--output", "/proc/self/cwd", "--estimate"], "folder of the estimate '/proc/self' cannot be written"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line_before_anything_starts(
    stand_in, tmp_path, capsys, change, message, monkeypatch
):
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    write_corpus(tmp_path / "in" / "a.parquet", ROWS)
    assert score.main(command(tmp_path) + change) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("bigbird-score")]
    assert message in line
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "cwd").iterdir())


def test_a_file_that_is_not_what_its_name_says_is_refused(stand_in, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.parquet").write_text("not Parquet")
    assert score.main(command(tmp_path)) == 2
    assert "a.parquet' cannot be read: " in capsys.readouterr().err


def test_an_output_among_the_inputs_is_refused(stand_in, tmp_path, capsys):
    write_corpus(tmp_path / "in" / "a.parquet", ROWS)
    assert score.main([*command(tmp_path), "--output", str(tmp_path / "in" / "out")]) == 2
    assert "in/out' lies among the inputs" in capsys.readouterr().err


def test_ids_that_repeat_are_refused_by_name(stand_in, tmp_path, capsys):
    write_corpus(tmp_path / "in" / "a.parquet", ["x", "y"], key=["a", "b"])
    write_corpus(tmp_path / "in" / "b.parquet", ["z", "y"], key=["c", "a"])
    assert score.main(command(tmp_path, "--id-column", "key")) == 2
    assert "id 'a' occurs twice: row 0 of" in capsys.readouterr().err


NASTY = {
    "null": None,
    "empty": "",
    "blank": "  \t\n ",
    "one word": "x" * 2_000_000,
    "emoji": "😀👩‍👩‍👧 and words",
    "right to left": "שלום עולם مرحبا",
    "nul": "a nul \0 inside",
    "long": "some words " * 27_300,
    "no text": "to be replaced",
    "plain": "long documents are read in blocks",
}


def test_the_worst_rows_of_corpora_are_all_there_once_the_bad_ones_with_their_error(tiny_checkpoint, tmp_path):
    stored = pa.array([None if text is None else text.encode() for text in NASTY.values()])
    bytes_ = stored.buffers()[2].to_pybytes().replace(b"to be replaced", b"\xff\xfe not a text ")
    text = pa.Array.from_buffers(pa.string(), len(NASTY), [*stored.buffers()[:2], pa.py_buffer(bytes_)])
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"id": list(NASTY), "text": text}), tmp_path / "in" / "nasty.parquet", row_group_size=4)
    model = str(tiny_checkpoint(BigBirdForTokenClassification, id2label={0: "O", 1: "X"}))
    arguments = command(tmp_path, "--task", "token-classification", "--model", model, "--num-tokenizers", "1")
    assert score.main([*arguments, "--columns", "id", "--target-file-size", "1M"]) == 3
    rows = {row["id"]: row for name in parts(tmp_path) for row in pq.read_table(tmp_path / "out" / name).to_pylist()}
    assert rows.keys() == NASTY.keys()
    assert sum(pq.read_metadata(tmp_path / "out" / name).num_rows for name in parts(tmp_path)) == len(NASTY)
    messages = {id_: row["error"]["message"] for id_, row in rows.items() if row["error"]}
    assert messages.keys() == {"null", "empty", "one word", "no text"}
    assert "max_tokens_per_document" in messages["one word"]
    assert "is not Unicode text" in messages["no text"]
    assert rows["long"]["num_windows"] > 100
    assert all((row["entities"] is None) == (row["error"] is not None) for row in rows.values())


def test_the_schema_is_printed_without_a_model(capsys):
    assert score.main(["--task", "masked-lm-scoring", "--print-schema"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["nll: double", "pseudo_perplexity: double"]
    assert "error: struct<type: string, message: string, retryable: bool>" in lines


def test_options_beyond_the_model_and_weights_cut_short_are_refused(tiny_checkpoint, tmp_path, capsys):
    write_corpus(tmp_path / "in" / "a.parquet", ROWS)
    model = tiny_checkpoint(BigBirdForMaskedLM)
    arguments = command(tmp_path, "--model", str(model))
    assert score.main([*arguments, "--option", "max_length=9999"]) == 2
    weights = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(weights[:-9])
    assert score.main(arguments) == 2
    long, damaged = capsys.readouterr().err.splitlines()
    assert "max_length is 9999, but the model reads at most 512 tokens" in long
    assert "model.safetensors is damaged" in damaged
    assert not (tmp_path / "out").exists()


def test_a_model_without_the_head_is_refused(tmp_path):
    def inspect(*args):
        raise CheckpointError("needs a checkpoint of BigBirdForMaskedLM")

    write_corpus(tmp_path / "in" / "a.parquet", ROWS)
    job = Job(task="fill-mask", model="m", inputs=[str(tmp_path / "in")], output=str(tmp_path / "out"))
    with pytest.raises(CheckpointError):
        run_job(job, load=lambda *a, **k: None, inspect=inspect, out=io.StringIO())
    assert not (tmp_path / "out").exists()
