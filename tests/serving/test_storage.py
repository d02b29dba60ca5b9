"""The storage of files and batches: a directory, and an object store."""

import io
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
from object_store import s3_bucket
from ray.job_submission import JobDetails, JobStatus, JobType

from serving.batches import jobs
from serving.batches.batches import Batch, Batches
from serving.batches.files import Files
from serving.batches.jobs import BatchJobs
from serving.batches.storage import Storage
from serving.errors import ServingError


@pytest.fixture(params=["directory", "s3"])
def storage(request, tmp_path):
    with ExitStack() as stack:
        yield Storage(
            str(tmp_path) if request.param == "directory" else stack.enter_context(s3_bucket())(tmp_path.name)
        )


def test_a_file_comes_back_as_it_was_sent_and_is_its_owners_alone(storage):
    files = Files(storage, "a")
    made = [files.add(io.BytesIO(b"x" * size), f"{size}.jsonl", "batch") for size in (0, 3, 2**21)]
    for record in made:
        assert files.get(record["id"]) == record
        with files.open(record["id"]) as stream:
            assert len(stream.read()) == record["bytes"] == int(record["filename"].removesuffix(".jsonl"))
    assert [one["id"] for one in files.list(None, newest_first=False)] == [one["id"] for one in made]
    assert [one["id"] for one in files.list(made[1]["id"], newest_first=True)] == [made[0]["id"]]
    for absent in (Files(storage, "b"), files):
        with pytest.raises(ServingError, match="no file"):
            absent.get(made[0]["id"] if absent is not files else "../a/files")
    files.delete(made[1]["id"])
    assert [one["id"] for one in files.list(None, newest_first=False)] == [made[0]["id"], made[2]["id"]]


def interrupted(storage):
    with storage.writing("a/content") as stream:
        stream.write(b"half")
        raise ValueError("too late")


def test_what_fails_while_it_is_written_is_not_there(storage):
    with pytest.raises(ValueError, match="too late"):
        interrupted(storage)
    assert storage.size("a/content") is None
    assert storage.read("a/none.json") is None
    assert storage.names("a") == storage.names("nowhere") == []


def test_a_request_that_is_sent_again_is_the_same_batch(storage):
    batches = Batches(storage, "a")
    asked = {"input_file_id": "file-1", "endpoint": "/v1/embeddings"}
    first = batches.add(asked, "one request").id
    assert batches.add(asked, "one request").id == first
    other = batches.add(asked, "another request").id
    assert [batch.id for batch in batches.list(None)] == sorted((first, other), reverse=True)


def test_a_batch_whose_jobs_cannot_begin_fails_and_says_why_and_one_whose_jobs_are_killed_goes_on(storage):
    request = {"input_file_id": "file-1", "endpoint": "/v1/embeddings"}
    batch = Batches(storage, "a").add(request, "request-1")

    def ended_with(exit_code):
        return JobDetails(
            type=JobType.SUBMISSION,
            status=JobStatus.FAILED,
            entrypoint="python -m batch_job",
            message="No module named batch_job",
            driver_exit_code=exit_code,
        )

    assert not BatchJobs.given_up(batch, [ended_with(-9), ended_with(137), ended_with(1), ended_with(1)])
    assert not batch.ended
    assert BatchJobs.given_up(batch, [ended_with(-9), *[ended_with(1)] * 3])
    assert batch.ended
    assert batch.read("state")["errors"]["data"][0]["message"] == "No module named batch_job"


def test_the_oldest_batch_of_any_owner_comes_first_and_one_that_has_ended_is_not_read_again(storage, monkeypatch):
    request = {"input_file_id": "file-1", "endpoint": "/v1/embeddings"}
    first, second = (Batches(storage, owner).add(request, "a request") for owner in ("b", "a"))
    Batch(storage, "a", "batch_" + "0" * 24).open()  # by a gateway that died before it wrote the request
    submitted, read = [], []
    client = SimpleNamespace(list_jobs=list, submit_job=lambda **job: submitted.append(job["submission_id"]))
    monkeypatch.setattr(jobs, "JobSubmissionClient", lambda address: client)
    monkeypatch.setattr(jobs.ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="here", runtime_env={}))
    look = BatchJobs(storage, max_jobs=1).look
    look()
    assert submitted == [f"{first.id}-1"]
    first.to_state("completed")
    look()
    assert submitted == [f"{first.id}-1", f"{second.id}-1"]
    monkeypatch.setattr(
        Storage, "read", lambda storage, path, plain=Storage.read: read.append(path) or plain(storage, path)
    )
    BatchJobs(storage, max_jobs=1).look()
    assert any(second.id in path for path in read)
    assert not any(first.id in path for path in read)
    assert [batch.id for batch in Batches(storage, "b").list(None)] == [first.id]
