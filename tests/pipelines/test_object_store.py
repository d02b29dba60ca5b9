"""A whole job on a real S3 server: model, input and output there; its driver killed, and started again."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from jobs import write_corpus
from object_store import s3_bucket

from bigbird import BigBirdForMaskedLM
from bigbird.errors import CheckpointError
from bigbird.loading.hub import resolve
from pipelines.scoring.checks import check_same, inspect_model, location_of
from pipelines.scoring.ledger.records import SUCCESS_FILE
from pipelines.scoring.storage import locate, names_in, read_whole, write_whole

ROOT = Path(__file__).parents[2]
ROWS = 120

# Clients of the server leave their sockets to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def s3():
    with s3_bucket() as uri:
        yield uri


@pytest.fixture(scope="module")
def model(s3, tiny_checkpoint):
    """The URI of a checkpoint."""
    for path in tiny_checkpoint(BigBirdForMaskedLM).iterdir():
        write_whole(locate(s3(f"model/{path.name}")), path.read_bytes())
    return s3("model")


def test_a_hub_model_is_loaded_elsewhere_at_the_revision_that_was_found_here(tiny_checkpoint, monkeypatch, tmp_path):
    commit, repository = "0123456789abcdef" * 2 + "01234567", tmp_path / "models--owner--name"
    snapshot = repository / "snapshots" / commit
    shutil.copytree(tiny_checkpoint(BigBirdForMaskedLM), snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("owner/name", "hf://owner/name", "hf://owner/name@main"):
        info = inspect_model("masked-lm-scoring", name)
        assert info.location == f"hf://owner/name@{commit}"
        assert info.files == ()
        check_same(info.location, info.digest)
    assert location_of(str(snapshot), snapshot) == str(snapshot), "a directory is one, wherever it lies"
    monkeypatch.chdir(snapshot.parent)  # processes elsewhere run in another folder
    assert location_of(snapshot.name, snapshot) == str(snapshot)
    with pytest.raises(CheckpointError, match="did not give it"):
        inspect_model("masked-lm-scoring", "hf://owner/name@v2")


def test_a_model_whose_file_was_replaced_with_its_size_and_times_kept_is_another(tiny_checkpoint, tmp_path):
    model = shutil.copytree(tiny_checkpoint(BigBirdForMaskedLM), tmp_path / "model")
    info = inspect_model("masked-lm-scoring", str(model))
    config = model / "config.json"
    other = shutil.copy2(config, tmp_path / "other.json")
    other.write_text(config.read_text().swapcase())
    shutil.copystat(config, other)
    assert other.stat().st_size == config.stat().st_size
    other.rename(config)
    with pytest.raises(CheckpointError, match="is not the checkpoint that the job started with"):
        check_same(str(model), info.digest)


def test_a_model_at_a_uri_is_fetched_once_and_anew_when_it_was_replaced(s3, model, monkeypatch, tmp_path):
    monkeypatch.setenv("BIGBIRD_CACHE", str(tmp_path))
    first = resolve(model)
    assert sorted(path.name for path in first.iterdir()) == names_in(locate(model))
    assert (first / "config.json").read_bytes() == read_whole(locate(s3("model/config.json")))
    copied = (first / "model.safetensors").stat().st_mtime_ns
    assert resolve(model) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == copied
    info = inspect_model("masked-lm-scoring", model)
    check_same(info.location, info.digest)
    config = read_whole(locate(s3("model/config.json")))
    write_whole(locate(s3("model/config.json")), config + b"\n")
    assert resolve(model) != first
    with pytest.raises(CheckpointError, match="is not the checkpoint that the job started with"):
        check_same(info.location, info.digest)
    write_whole(locate(s3("model/config.json")), config)
    with pytest.raises(CheckpointError, match=r"nothing.*there is no config\.json|nothing.*cannot be read"):
        resolve(s3("nothing"))


@pytest.mark.ray
def test_a_job_on_a_bucket_is_killed_started_again_and_has_every_row_once(s3, model, tmp_path):
    corpus = write_corpus(tmp_path / "a.parquet", [f"Document {n} reads its neighbours. " * 20 for n in range(ROWS)])
    write_whole(locate(s3("in/a.parquet")), corpus.read_bytes())
    output = locate(s3("out"))
    command = [sys.executable, "-m", "pipelines.score", "--task", "masked-lm-scoring", "--model", model]
    command += ["--input", s3("in"), "--output", s3("out"), "--id-column", "id", "--target-file-size", "4K"]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    environment |= {"RAY_ADDRESS": "local", "BIGBIRD_CACHE": str(tmp_path / "cache")}
    with open(tmp_path / "log", "wb") as log:
        started = {"cwd": ROOT, "env": environment, "stdout": log, "stderr": log}
        first = subprocess.Popen(command, **started)
        while first.poll() is None and not any(name.startswith("part-") for name in names_in(output)):
            time.sleep(0.02)
        first.kill()
        first.wait()
        done = len([name for name in names_in(output) if name.startswith("part-")])
        second = subprocess.run(command, timeout=240, **started)
    said = (tmp_path / "log").read_text()
    assert second.returncode == 0, said
    assert 0 < done < len([name for name in names_in(output) if name.startswith("part-")]), said
    assert SUCCESS_FILE in names_in(output)
    tables = [
        pq.read_table(output.child(name).path, filesystem=output.filesystem, partitioning=None)
        for name in names_in(output)
        if name.startswith("part-")
    ]
    rows = [row for table in tables for row in table.to_pylist()]
    assert sorted(row["id"] for row in rows) == list(range(ROWS))
    assert all(row["error"] is None and row["nll"] > 0 for row in rows)
    assert read_whole(locate(s3("out.report.html"))) is not None
