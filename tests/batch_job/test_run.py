"""batch_job.run without Ray: what ends a batch early, what one line costs the others, and what is kept.

Scoring jobs run in this process, by the job's own stage and into its part files.
"""

import io
import json
import shutil
import signal
import time
import warnings

import pyarrow.parquet as pq
import pytest

from bigbird import BigBirdForMaskedLM
from bigbird.errors import BigBirdError, CheckpointError
from bigbird.predictors import load_predictor
from pipelines.scoring.actors.score_rows import ScoreRows
from pipelines.scoring.actors.stages import make_stage
from pipelines.scoring.inputs.units import SOURCE_FILE, SOURCE_ROW
from pipelines.scoring.ledger.parts import Footer, part_name, write_part
from pipelines.scoring.scores import scores_of
from pipelines.scoring.storage import locate, make_writable, names_in
from serving.batches.batches import Batches, error
from serving.batches.files import Files
from serving.batches.storage import Storage

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # as Serve is imported
    from batch_job import endpoint, groups, run, watch
    from batch_job.__main__ import main
    from batch_job.run import BatchRun

TASK = "feature-extraction"
PART_ROWS = 4


def run_here(job, *, load, inspect, out):
    """As `run_job`."""
    scores = scores_of(job.task, job.model, job.options.task_options, job.scores)
    stage, _ = make_stage(scores, job.options, load=load, inspect=inspect)
    output, table = locate(job.output), pq.read_table(job.inputs[0])
    make_writable(output)
    scorer = ScoreRows(stage)
    for start in range(0, table.num_rows, PART_ROWS):
        rows = table.slice(start, PART_ROWS)
        ranges = ((job.inputs[0], start, start + rows.num_rows),)
        rows = rows.append_column(SOURCE_FILE, [[job.inputs[0]] * rows.num_rows])
        rows = rows.append_column(SOURCE_ROW, [list(range(start, start + rows.num_rows))])
        if (name := part_name("run", ranges)) not in names_in(output):
            write_part(output, name, scorer(rows), Footer("run", ranges, {}))
            after_part()


def after_part():
    """What happens once a part file is written: tests put something here."""


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    monkeypatch.setattr(groups, "run_job", run_here)
    monkeypatch.setattr(watch, "_LOOK_S", 0.05)


@pytest.fixture
def checkpoint(tiny_checkpoint, tmp_path):
    return shutil.copytree(tiny_checkpoint(BigBirdForMaskedLM), tmp_path / "model")


@pytest.fixture
def make_batch(tmp_path, checkpoint):
    """A batch of these texts, or of these (text, model)."""

    def make(texts, **heads):
        storage = Storage(str(tmp_path / "storage"))
        given = [(text, None) if isinstance(text, str) else text for text in texts]
        bodies = [{"inputs": text, **({"model": model} if model else {})} for text, model in given]
        lines = [
            json.dumps({"custom_id": str(number), "method": "POST", "url": f"/v1/{TASK}", "body": body})
            for number, body in enumerate(bodies)
        ]
        content = io.BytesIO("\n".join(lines).encode())
        checkpoints = {TASK: checkpoint, **heads}
        served = {
            "heads": {name: {"task": TASK, "checkpoint": str(place)} for name, place in checkpoints.items()},
            "routes": {},
            "defaults": [],
            "gateway": {},
        }
        asked = {
            "input_file_id": Files(storage, "a").add(content, "a.jsonl", "batch")["id"],
            "endpoint": f"/v1/{TASK}",
            "completion_window": "24h",
            "metadata": None,
            "created_at": int(time.time()),
            "expires_at": int(time.time()) + 3600,
            "max_requests": 1000,
            "max_actors": 1,
            "served": served,
        }
        return Batches(storage, "a").add(asked, "a request")

    return make


def answers(batch):
    """By custom_id: the record of a good answer, and the error's code or the status of the others."""
    shown, files = batch.as_openai(), Files(batch.storage, "a")
    ids = [file_id for file_id in (shown["output_file_id"], shown["error_file_id"]) if file_id is not None]
    lines = [json.loads(line) for file_id in ids for line in files.open(file_id).read().splitlines()]
    found = {}
    for line in lines:
        assert line["custom_id"] not in found
        response = line["response"] or {}
        good = response.get("status_code") == 200
        found[int(line["custom_id"])] = (
            response["body"] if good else response.get("status_code") or line["error"]["code"]
        )
    assert shown["request_counts"]["total"] == len(found)
    return found


def assert_vectors(found, texts, checkpoint):
    expected = load_predictor(TASK, checkpoint)(texts)
    for (answer,), record in zip(found, expected, strict=True):
        assert answer == pytest.approx(record["embedding"], abs=1e-5)


def test_an_unexpected_failure_on_one_line_is_its_answer_and_costs_its_neighbours_nothing(
    make_batch, checkpoint, monkeypatch
):
    num_seen = {}

    def text_of(tokenizer, config, example, index, plain=endpoint.text_of):
        num_seen[example] = num_seen.get(example, 0) + 1
        if example == "odd" or (example == "odd later" and num_seen[example] == 2):
            raise ZeroDivisionError(example)
        if example == "odd at first" and num_seen[example] == 1:
            raise ZeroDivisionError(example)
        return plain(tokenizer, config, example, index)

    monkeypatch.setattr(endpoint, "text_of", text_of)
    texts = ["a lake", "odd", "a river", "odd later", "odd at first", "a sea"]
    batch = make_batch(texts)
    BatchRun(batch).run()
    assert batch.state["status"] == "completed"
    found = answers(batch)
    assert (found.pop(1), found.pop(3), found.pop(4)) == (500, 500, "not_scored")
    assert_vectors([found[number] for number in (0, 2, 5)], ["a lake", "a river", "a sea"], checkpoint)


@pytest.fixture
def in_the_background():
    """As a shell starts what runs in the background: Ctrl-C is ignored."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    assert signal.signal(signal.SIGINT, before) == signal.SIG_IGN


@pytest.mark.usefixtures("in_the_background")
@pytest.mark.parametrize("status", ["cancelled", "expired"])
@pytest.mark.parametrize("phase", ["reading", "scoring", "writing"])
def test_a_batch_that_is_cancelled_or_expires_ends_soon_whatever_it_is_at(
    make_batch, checkpoint, monkeypatch, phase, status
):
    texts = [f"a lake {number}" for number in range(2 * PART_ROWS)]
    batch = make_batch(texts)

    def must_end():
        if status == "cancelled":
            batch.write("cancel", {"cancelling_at": int(time.time())})
        else:
            batch.request["expires_at"] = 0

    phases, num_read = ["reading", "writing"], []

    def stopped_while_lines_are_read(*arguments, plain=run.read_lines):
        now = phases.pop(0)
        for line in plain(*arguments):
            num_read.append(line.number)
            if now == phase and line.number == PART_ROWS + 1:
                must_end()
                time.sleep(0.5)
            yield line

    def stopped_while_rows_are_scored():
        must_end()
        time.sleep(60)
        pytest.fail("it went on")

    monkeypatch.setattr(run, "read_lines", stopped_while_lines_are_read)
    if phase == "scoring":
        monkeypatch.setitem(globals(), "after_part", stopped_while_rows_are_scored)
    BatchRun(batch).run()
    shown = batch.as_openai()
    assert shown["status"] == status
    if phase == "reading":
        assert shown["output_file_id"] is shown["error_file_id"] is None
        assert shown["errors"]["data"][0]["code"] == f"batch_{status}"
        assert num_read == list(range(1, PART_ROWS + 2)), "and no line more"
        return
    found = answers(batch)
    assert_vectors([found[number] for number in range(PART_ROWS)], texts[:PART_ROWS], checkpoint)
    assert {found[number] for number in range(PART_ROWS, len(texts))} == {f"batch_{status}"}
    assert not batch.storage.names(batch.work)


def disk_is_full():
    raise OSError("the disk is full")


def test_weights_that_change_during_a_batch_never_mix_and_what_was_scored_before_is_answered(
    make_batch, checkpoint, tiny_checkpoint, monkeypatch
):
    texts = [f"a lake {number}" for number in range(2 * PART_ROWS)]
    batch = make_batch(texts)
    command = [batch.storage.root, batch.owner, batch.id]
    monkeypatch.setitem(globals(), "after_part", disk_is_full)
    with pytest.raises(OSError, match="the disk is full"):
        main(command)
    assert batch.read("last_error") == {"message": "OSError: the disk is full"}
    kept = shutil.copytree(checkpoint, checkpoint.with_name("kept"))
    shutil.copytree(tiny_checkpoint(BigBirdForMaskedLM, seed=1), checkpoint, dirs_exist_ok=True)
    monkeypatch.setitem(globals(), "after_part", lambda: pytest.fail("scored by other weights"))
    with pytest.raises(CheckpointError, match="its files changed after the batch began"):
        main(command)
    # As a gateway does after some tries.
    batch.write("failure", error("job_failed", batch.read("last_error")["message"]))
    main(command)
    shown = batch.as_openai()
    assert shown["status"] == "failed"
    assert "its files changed after the batch began" in shown["errors"]["data"][0]["message"]
    found = answers(batch)
    assert_vectors([found[number] for number in range(PART_ROWS)], texts[:PART_ROWS], kept)
    assert {found[number] for number in range(PART_ROWS, len(texts))} == {"batch_failed"}


@pytest.mark.parametrize("damaged", ["model.safetensors", "tokenizer.json", "config.json"])
def test_requests_to_a_damaged_model_do_not_keep_those_to_others_from_being_answered(
    make_batch, checkpoint, tmp_path, damaged
):
    copy = shutil.copytree(checkpoint, tmp_path / "damaged")
    (copy / damaged).write_bytes(b"no such thing")
    batch = make_batch([("a lake", "damaged"), ("a river", TASK), ("a sea", "damaged")], damaged=copy)
    with pytest.raises(BigBirdError, match="damaged"):
        BatchRun(batch).run()
    batch.write("failure", error("job_failed", "it is damaged"))
    BatchRun(batch).run()
    found = answers(batch)
    assert (found.pop(0), found.pop(2)) == ("batch_failed", "batch_failed")
    assert_vectors([found[1]], ["a river"], checkpoint)


def test_requests_to_a_model_that_was_away_for_a_moment_are_answered_by_the_next_job(make_batch, checkpoint):
    batch = make_batch(["a lake", "a river"])
    away = checkpoint.rename(checkpoint.with_name("away"))
    with pytest.raises(BigBirdError):
        BatchRun(batch).run()
    away.rename(checkpoint)
    BatchRun(batch).run()
    assert batch.state["status"] == "completed"
    assert_vectors([found for _, found in sorted(answers(batch).items())], ["a lake", "a river"], checkpoint)
