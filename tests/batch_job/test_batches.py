"""/v1/files and /v1/batches: a real server, its cluster's jobs, and the unmodified client of OpenAI."""

import base64
import contextlib
import json
import os
import signal
import struct
from pathlib import Path

import httpx
import openai
import pytest
from endpoint_inputs import close
from serving_cluster import APP, LABELS, SERVED, deploy, serve, served, wait_until

from bigbird import BigBirdForMaskedLM, BigBirdForTokenClassification

pytestmark = SERVED

TEXT = "Paris is the capital of France; Zürich lies on a lake. "
ENDED = ("completed", "failed", "expired", "cancelled")
PATIENCE_S = 400.0


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    return tmp_path_factory.mktemp("batches")


@pytest.fixture(scope="module")
def arguments(storage, tiny_checkpoint, tmp_path_factory):
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text("ours\ntheirs\n")
    heads = {
        "feature-extraction": tiny_checkpoint(BigBirdForMaskedLM),
        "tagger:token-classification": tiny_checkpoint(BigBirdForTokenClassification, id2label=LABELS),
    }
    return {
        "heads": ",".join(f"{name}={path}" for name, path in heads.items()),
        "head_defaults": {"num_cpus": 0.1},
        "gateway": {"api_keys_file": str(keys), "max_body_bytes": 100_000},
        "batches": {"storage": str(storage), "max_requests": 500, "max_jobs": 3, "max_actors": 1},
    }


@pytest.fixture(scope="module")
def url(arguments):
    with served(arguments, include_dashboard=True) as instance:
        yield instance.url


@pytest.fixture(scope="module")
def client(url):
    return openai.OpenAI(base_url=f"{url}/v1", api_key="ours")


def line(custom_id, url, body, **more):
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body, **more})


def send(client, lines, endpoint, **more):
    """A batch of these lines."""
    file = client.files.create(file=("requests.jsonl", "\n".join(lines).encode()), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h", **more)


def parts_of(storage, batch):
    """The part files of its jobs, and when they were written."""
    found = {}
    for part in storage.glob(f"*/batches/{batch.id}/work/*/scored/part-*"):
        with contextlib.suppress(FileNotFoundError):
            found[part] = part.stat().st_mtime_ns
    return found


def ended(client, batch, look=lambda: None):
    def at_its_end():
        look()
        return client.batches.retrieve(batch.id).status in ENDED

    wait_until(at_its_end, PATIENCE_S)
    return client.batches.retrieve(batch.id)


def answers(client, file_id):
    if file_id is None:
        return []
    return [json.loads(text) for text in client.files.content(file_id).text.splitlines()]


def kill_job(batch_id):
    """SIGKILL for the job's driver."""
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = place.read_bytes().split(b"\0")
            if b"batch_job" in words and batch_id.encode() in words:
                os.kill(int(place.parent.name), signal.SIGKILL)


def test_every_request_is_answered_once_and_as_the_endpoint_answers_it_though_server_and_job_end_and_start_again(
    url, client, storage, arguments
):
    path = "/v1/embeddings"
    bodies = {f"text-{number}": {"input": f"{number} {TEXT * 15}"} for number in range(300)}
    bodies["several"] = {"input": ["a lake", TEXT * 30, "Paris"], "encoding_format": "base64"}
    bodies["short"] = {"input": TEXT, "dimensions": 4}
    bodies["ids"] = {"input": [20, 30, 40]}
    bodies["empty"] = {"input": ["a lake", ""]}
    bodies["unknown"] = {"input": "a lake", "temperature": 1}
    bodies = {name: {"model": "feature-extraction", **body} for name, body in bodies.items()}
    bodies["model"] = {"model": "nobody", "input": "a lake"}
    lines = [line(name, path, body) for name, body in bodies.items()]
    wrong = {
        len(lines) + 1: "not JSON",
        len(lines) + 2: line("text-7", path, bodies["text-7"]),
        len(lines) + 4: line("elsewhere", "/v1/completions", {}),
        len(lines) + 5: line("long", path, {"input": "x" * 200_000}),
    }
    lines += [wrong.get(number, "") for number in range(len(lines) + 1, len(lines) + 6)]
    batch = send(client, lines, path, metadata={"of": "tests"})
    assert (batch.status, batch.metadata) == ("validating", {"of": "tests"})

    wait_until(lambda: parts_of(storage, batch), PATIENCE_S)
    with pytest.raises(openai.BadRequestError, match=f"the input file of {batch.id}, which has not ended"):
        client.files.delete(batch.input_file_id)
    kill_job(batch.id)
    assert client.batches.retrieve(batch.id).status == "in_progress"
    serve.delete(APP)
    deploy(url, arguments)
    kept, later = parts_of(storage, batch), {}
    batch = ended(client, batch, lambda: later.update(parts_of(storage, batch)))
    assert {path: later[path] for path in kept} == kept, "what was scored was scored again"
    assert batch.status == "completed", batch
    assert batch.request_counts.model_dump() == {"total": len(bodies) + 4, "completed": 303, "failed": 7}
    good, bad = answers(client, batch.output_file_id), answers(client, batch.error_file_id)
    by_number = {one["error"]["line"]: one for one in bad if one["error"]}
    assert {number: one["error"]["code"] for number, one in by_number.items()} == dict(
        zip(wrong, ("invalid_json_line", "duplicate_custom_id", "url_mismatch", "line_too_long"), strict=True)
    )
    answered = {one["custom_id"]: one["response"] for one in (*good, *bad) if one["error"] is None}
    assert list(answered) == [name for name in bodies if name in answered]
    assert sorted(answered) == sorted(bodies)
    assert len(good) + len(bad) == len(bodies) + 4
    headers = {"Authorization": "Bearer ours"}
    for name in (*list(bodies)[:300:60], *list(bodies)[300:]):
        live = httpx.post(url + path, json=bodies[name], headers=headers, timeout=60)
        given = answered[name]
        assert given["status_code"] == live.status_code, name
        if name == "several":  # numbers in base64 are compared as numbers
            for answer in (given["body"], live_body := live.json()):
                for one in answer["data"]:
                    raw = base64.b64decode(one["embedding"])
                    one["embedding"] = list(struct.unpack(f"<{len(raw) // 4}f", raw))
            assert close(given["body"], live_body)
        else:
            assert close(given["body"], live.json()), name
    assert not list(storage.glob(f"*/batches/{batch.id}/work/*"))
    assert client.files.delete(batch.input_file_id).deleted


def test_a_batch_that_is_cancelled_ends_with_every_request_accounted_for(client):
    path = "/v1/models/tagger/token-classification"
    lines = [line(f"{number}", path, {"inputs": f"{number} {TEXT * 300}"}) for number in range(100)]
    batch = send(client, lines, path)
    wait_until(lambda: client.batches.retrieve(batch.id).in_progress_at, PATIENCE_S)
    assert client.batches.cancel(batch.id).status == "cancelling"
    batch = ended(client, batch)
    assert batch.status == "cancelled"
    assert batch.cancelled_at >= batch.cancelling_at >= batch.in_progress_at
    good, bad = answers(client, batch.output_file_id), answers(client, batch.error_file_id)
    assert sorted(int(one["custom_id"]) for one in (*good, *bad)) == list(range(100))
    assert {one["error"]["code"] for one in bad} <= {"batch_cancelled"}
    with pytest.raises(openai.BadRequestError, match="has ended, its status is cancelled"):
        client.batches.cancel(batch.id)


def test_a_file_without_a_request_fails_the_batch_and_says_where(client):
    path = "/v1/token-classification"
    few, none, many = (
        send(client, lines, path)
        for lines in (["a,b", "1,2"], [], [line(str(n), path, {"inputs": "a"}) for n in range(501)])
    )
    failed = ended(client, few)
    assert failed.status == "failed"
    assert [(error.code, error.line) for error in failed.errors.data] == [
        ("invalid_json_line", 1),
        ("invalid_json_line", 2),
    ]
    assert ended(client, none).errors.data[0].code == "empty_file"
    assert ended(client, many).errors.data[0].code == "too_many_requests"


def test_files_and_batches_are_listed_in_pages_and_those_of_another_key_are_not_there(url, client):
    made = [client.files.create(file=("a.jsonl", b"{}" * n), purpose="batch") for n in (1, 2, 3)]
    listed = [file.id for file in client.files.list(limit=2)]
    assert listed[:3] == [file.id for file in reversed(made)]
    assert client.files.content(made[2].id).content == b"{}" * 3
    assert client.files.retrieve(made[1].id).bytes == 4
    pages = client.batches.list(limit=1)
    assert pages.has_more
    assert len({batch.id for batch in pages}) == len(list(client.batches.list())) >= 4
    other = openai.OpenAI(base_url=f"{url}/v1", api_key="theirs")
    assert not list(other.files.list())
    assert not list(other.batches.list())
    for ask in (other.files.retrieve, other.files.content, other.files.delete):
        with pytest.raises(openai.NotFoundError, match="no file"):
            ask(made[0].id)
    with pytest.raises(openai.BadRequestError, match="input_file_id: no file"):
        other.batches.create(input_file_id=made[0].id, endpoint="/v1/embeddings", completion_window="24h")
    assert client.files.delete(made[0].id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(made[0].id)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"endpoint": "/v1/completions"}, "endpoint: '/v1/completions' is not served in batches; these are: "),
        ({"endpoint": "/v1/models/tagger/embeddings"}, "endpoint: 'tagger' is a model for token-classification"),
        ({"input_file_id": "file-1"}, "input_file_id: no file 'file-1'"),
        ({"completion_window": "soon"}, "completion_window: should be hours or days"),
        ({"metadata": {"a": "b" * 513}}, "metadata.a: "),
        ({"extra_body": {"priority": 1}}, "priority"),
    ],
)
def test_what_cannot_be_a_batch_is_refused_by_name(client, changes, message):
    file = client.files.create(file=("a.jsonl", b"{}"), purpose="batch")
    asked = {"input_file_id": file.id, "endpoint": "/v1/embeddings", "completion_window": "24h"}
    with pytest.raises(openai.APIStatusError) as refused:
        client.batches.create(**{**asked, **changes})
    assert message in refused.value.body["message"]


def test_an_upload_that_is_no_file_for_batches_is_refused_by_name(url, client):
    with pytest.raises(openai.BadRequestError, match="purpose: 'fine-tune' is not served"):
        client.files.create(file=("a.jsonl", b"{}"), purpose="fine-tune")
    headers = {"Authorization": "Bearer ours"}
    sent = httpx.post(f"{url}/v1/files", json={"purpose": "batch"}, headers=headers)
    assert (sent.status_code, sent.json()["error"]["code"]) == (415, None)
    assert httpx.post(f"{url}/v1/files", files={"file": b"{}"}, headers=headers).status_code == 400
    assert httpx.post(f"{url}/v1/files", files={"file": b"{}"}).status_code == 401
