"""serving.batches.jobs beside a list of Ray jobs: which batches get a job, and which end without one."""

import time
from types import SimpleNamespace

import pytest
from ray.job_submission import JobDetails, JobStatus, JobType

from serving.batches import jobs
from serving.batches.batches import Batch, Batches
from serving.batches.jobs import MAX_TRIES, BatchJobs
from serving.batches.storage import Storage

KILLED, FAILED = -9, 1


@pytest.fixture
def storage(tmp_path):
    return Storage(str(tmp_path))


@pytest.fixture
def cluster(monkeypatch):
    """Ray's jobs: `listed`, each of which runs until `end`."""
    listed = []

    def submit(**job):
        listed.append(
            JobDetails(
                type=JobType.SUBMISSION,
                submission_id=job["submission_id"],
                status=JobStatus.RUNNING,
                entrypoint=job["entrypoint"],
            )
        )

    def end(exit_code, message=""):
        (job,) = (job for job in listed if not job.status.is_terminal())
        job.status, job.driver_exit_code, job.message = JobStatus.FAILED, exit_code, message

    client = SimpleNamespace(list_jobs=lambda: list(listed), submit_job=submit)
    monkeypatch.setattr(jobs, "JobSubmissionClient", lambda address: client)
    monkeypatch.setattr(jobs.ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="here", runtime_env={}))
    return SimpleNamespace(listed=listed, end=end, ids=lambda: [job.submission_id for job in listed])


def added(storage, owner="a", **changes):
    request = {"input_file_id": "file-1", "endpoint": "/v1/embeddings", "expires_at": time.time() + 3600, **changes}
    return Batches(storage, owner).add(request, "a request")


def messages(batch):
    return [error["message"] for error in batch.state["errors"]["data"]]


@pytest.mark.parametrize("exit_code", [KILLED, FAILED])
def test_a_batch_whose_jobs_end_before_they_begin_fails_and_says_why(storage, cluster, exit_code):
    batch, look = added(storage), BatchJobs(storage, max_jobs=1).look
    for number in range(1, MAX_TRIES + 1):
        look()
        look()
        assert cluster.ids() == [f"{batch.id}-{tried}" for tried in range(1, number + 1)]
        cluster.end(exit_code, "No module named batch_job")
    look()
    assert batch.state["status"] == "failed"
    assert messages(batch) == ["3 jobs in a row got no further, the last of them: No module named batch_job"]
    look()
    assert len(cluster.listed) == MAX_TRIES
    assert storage.names("open") == []


def test_a_batch_whose_jobs_are_killed_goes_on_for_as_long_as_each_gets_further(storage, cluster):
    batch, look = added(storage), BatchJobs(storage, max_jobs=1).look
    for number in range(3 * MAX_TRIES):
        look()
        batch.to_state("in_progress", num_scored=number)
        cluster.end(KILLED)
    assert not batch.ended
    assert batch.must_end() is None
    look()
    assert len(cluster.listed) == 3 * MAX_TRIES + 1


def test_a_batch_with_scored_rows_that_gets_no_further_gets_a_job_that_writes_them_and_in_the_end_fails(
    storage, cluster
):
    batch, look = added(storage), BatchJobs(storage, max_jobs=1).look
    batch.to_state("in_progress", num_scored=7)
    for _ in range(MAX_TRIES):
        look()
        batch.write("last_error", {"message": "OSError: the disk is full"})
        cluster.end(FAILED, "a page of log")
    other = added(storage, owner="b")
    look()
    assert batch.must_end() == "failed"
    assert not batch.ended
    assert cluster.ids()[-2:] == [f"{batch.id}-{MAX_TRIES + 1}", f"{other.id}-1"]
    cluster.listed.pop()
    while not batch.ended:
        assert len(cluster.listed) <= 3 * MAX_TRIES
        cluster.end(KILLED, "killed")
        other.end("completed")
        look()
    assert "OSError: the disk is full" in messages(batch)[0]
    assert len(messages(batch)) == 2, "why it was given up, and why nothing is there"


def test_on_a_new_cluster_a_batch_has_as_many_tries_as_on_the_old_one(storage, cluster):
    batch, look = added(storage), BatchJobs(storage, max_jobs=1).look
    for number in range(MAX_TRIES - 1):
        batch.to_state("in_progress", num_scored=number)
        look()
        cluster.end(KILLED)
    cluster.listed.clear()
    for _ in range(MAX_TRIES):
        look()
        assert batch.must_end() is None
        cluster.end(KILLED)
    look()
    assert batch.must_end() == "failed"


@pytest.mark.parametrize("status", ["cancelled", "expired"])
def test_a_batch_that_waits_for_its_turn_ends_at_once_also_where_jobs_cannot_be_listed(
    storage, cluster, monkeypatch, status
):
    look = BatchJobs(storage, max_jobs=1).look
    added(storage)
    look()
    waits = added(storage, "b", **({"expires_at": time.time() - 1} if status == "expired" else {}))
    if status == "cancelled":
        waits.write("cancel", {"cancelling_at": 1})

    def down(address):
        raise ConnectionError("no dashboard")

    monkeypatch.setattr(jobs, "JobSubmissionClient", down)
    with pytest.raises(ConnectionError):
        look()
    assert waits.state["status"] == status
    assert messages(waits) == [f"{status} before the file was read: no request of it was answered"]
    assert len(cluster.listed) == 1


def test_a_cancelled_batch_with_scored_rows_does_not_wait_for_a_turn(storage, cluster):
    first, second = added(storage), added(storage, "b")
    look = BatchJobs(storage, max_jobs=1).look
    look()
    second.to_state("in_progress", num_scored=7)  # by a job of a cluster that is gone
    look()
    assert cluster.ids() == [f"{first.id}-1"]
    second.write("cancel", {"cancelling_at": 1})
    look()
    assert cluster.ids() == [f"{first.id}-1", f"{second.id}-1"]


def test_a_batch_whose_records_are_damaged_keeps_no_other_from_its_job(storage, cluster):
    damaged, other = added(storage), added(storage, "b")
    with storage.writing(f"{damaged.folder}/state.json") as stream:
        stream.write(b"no JSON")
    BatchJobs(storage, max_jobs=1).look()
    assert cluster.ids() == [f"{other.id}-1"]


def test_the_oldest_batch_of_any_owner_comes_first_and_one_that_has_ended_is_not_read_again(
    storage, cluster, monkeypatch
):
    first, second = added(storage, "b"), added(storage, "a")
    Batch(storage, "a", "batch_" + "0" * 24).open()  # by a gateway that died before it wrote the request
    look = BatchJobs(storage, max_jobs=1).look
    look()
    assert cluster.ids() == [f"{first.id}-1"]
    first.to_state("completed")
    cluster.end(0)
    look()
    assert cluster.ids() == [f"{first.id}-1", f"{second.id}-1"]
    read = []
    monkeypatch.setattr(
        Storage, "read", lambda storage, path, plain=Storage.read: read.append(path) or plain(storage, path)
    )
    BatchJobs(storage, max_jobs=1).look()
    assert any(second.id in path for path in read)
    assert not any(first.id in path for path in read)
    assert [batch.id for batch in Batches(storage, "b").list(None)] == [first.id]
