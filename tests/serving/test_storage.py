"""The storage of files and batches: a directory, and an object store."""

import io
from contextlib import ExitStack

import pytest
from object_store import s3_bucket

from serving.batches.batches import Batches
from serving.batches.files import Files
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


def test_a_file_whose_content_is_gone_is_no_file(storage):
    files = Files(storage, "a")
    made = files.add(io.BytesIO(b"{}"), "a.jsonl", "batch")
    storage.delete(files.content_path(made["id"]))
    with pytest.raises(ServingError, match="no file"):
        files.open(made["id"])


def test_the_input_file_of_a_batch_can_be_deleted_once_the_batch_has_ended(storage):
    batches, asked = Batches(storage, "a"), {"input_file_id": "file-1", "endpoint": "/v1/embeddings"}
    batch = batches.add(asked, "one request")
    with pytest.raises(ServingError, match=f"id: the input file of {batch.id}, which has not ended"):
        batches.check_unused("file-1")
    for others in (Batches(storage, "b"), batches):
        others.check_unused("file-1" if others is not batches else "file-2")
    batch.end("cancelled")
    batches.check_unused("file-1")


def test_a_request_that_is_sent_again_is_the_same_batch(storage):
    batches = Batches(storage, "a")
    asked = {"input_file_id": "file-1", "endpoint": "/v1/embeddings"}
    first = batches.add(asked, "one request").id
    assert batches.add(asked, "one request").id == first
    other = batches.add(asked, "another request").id
    assert [batch.id for batch in batches.list(None)] == sorted((first, other), reverse=True)
