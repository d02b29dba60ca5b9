"""serving on a real Ray cluster when things go wrong: too much at once, replicas killed, checkpoints replaced, keys."""

import os
import shutil
import signal
import threading

import httpx
import pytest
from error_bodies import error_in
from serving_cluster import LABELS, SERVED, deploy, replica_pids, served, wait_until, wait_until_ready

from bigbird import BigBirdForTokenClassification

pytestmark = SERVED

TASK = "token-classification"
KEY = {"Authorization": "Bearer right-key"}
SHORT = "Paris is the capital of France."
LONG = "Long documents are read in blocks. Each block of tokens reads its neighbours. " * 40


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint, tmp_path_factory):
    """A copy that tests may replace or remove."""
    copy = tmp_path_factory.mktemp("served") / "model"
    shutil.copytree(tiny_checkpoint(BigBirdForTokenClassification, id2label=LABELS), copy)
    return copy


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text("# for the tests\nright-key\n")
    return file


@pytest.fixture(scope="module")
def url(checkpoint, keys):
    with served(arguments(checkpoint, keys)) as instance:
        yield instance.url


def arguments(checkpoint, keys, *, outage_grace_s=120):
    settings = {"num_cpus": 0.1, "max_tokens_per_batch": 512, "max_queued_requests": 8, "max_queued_tokens": 20_000}
    return {
        "heads": {TASK: {"checkpoint": str(checkpoint), **settings}},
        "gateway": {"api_keys_file": str(keys), "outage_grace_s": outage_grace_s, "request_timeout_s": 80},
    }


class Load:
    """Clients that ask one after another until told to stop; what they were answered."""

    def __init__(self, url, num_clients, text=SHORT):
        self.answers = []
        self._url = url
        self._text = text
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(num_clients)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self):
        with httpx.Client(timeout=90, headers=KEY) as client:
            while not self._stop.is_set():
                response = client.post(
                    f"{self._url}/v1/{TASK}", json={"inputs": self._text, "parameters": {"ignore_labels": []}}
                )
                self.answers.append((response.status_code, response.text, dict(response.headers)))

    @property
    def statuses(self):
        return {status for status, _, _ in self.answers}

    def assert_only(self, *expected):
        """No other statuses than these, and all of them."""
        assert [answer for answer in self.answers if answer[0] not in expected] == []
        assert self.statuses == set(expected)


def test_keys_are_asked_for_over_http(url):
    body = {"inputs": SHORT}
    for headers in ({}, {"Authorization": "Bearer wrong-key"}):
        response = httpx.post(f"{url}/v1/{TASK}", json=body, headers=headers, timeout=90)
        assert response.status_code == 401
        assert error_in(response.json())["type"] == "invalid_api_key"
    assert httpx.post(f"{url}/v1/{TASK}", json=body, headers=KEY, timeout=90).status_code == 200
    assert httpx.get(f"{url}/health", timeout=90).status_code == 200


def test_too_much_at_once_is_refused_with_429_and_the_rest_is_served(url):
    with Load(url, 30, LONG) as load:
        wait_until(lambda: {200, 429} <= load.statuses)
    load.assert_only(200, 429)
    refused = [(text, headers) for status, text, headers in load.answers if status == 429]
    for text, headers in refused:
        assert '"error_type":"overloaded"' in text
        assert int(headers["retry-after"]) >= 1
    assert httpx.post(f"{url}/v1/{TASK}", json={"inputs": SHORT}, headers=KEY, timeout=90).status_code == 200


@pytest.mark.parametrize("deployment", [TASK, "gateway"])
def test_a_killed_replica_fails_no_request(url, deployment):
    (pid,) = replica_pids(deployment)
    with Load(url, 3) as load:
        wait_until(lambda: len(load.answers) > 10)
        os.kill(pid, signal.SIGKILL)
        before = len(load.answers)
        wait_until(lambda: len(load.answers) > before + 30)
    load.assert_only(200)
    assert replica_pids(deployment) != [pid]


def test_a_checkpoint_is_replaced_without_a_failed_request(url, keys, tiny_checkpoint):
    relabelled = {index: f"NEW{index}" for index in LABELS}
    other = tiny_checkpoint(BigBirdForTokenClassification, id2label=relabelled)
    with Load(url, 2) as load:
        deploy(url, arguments(other, keys))
        wait_until(lambda: "NEW" in load.answers[-1][1])
    load.assert_only(200)


def test_a_head_that_cannot_start_again_is_503_and_recovers(url, checkpoint, keys):
    deploy(url, arguments(checkpoint, keys, outage_grace_s=3))
    away = checkpoint.with_name("away")
    checkpoint.rename(away)
    try:
        for pid in replica_pids(TASK):
            os.kill(pid, signal.SIGKILL)
        response = httpx.post(f"{url}/v1/{TASK}", json={"inputs": SHORT}, headers=KEY, timeout=90)
        assert response.status_code == 503, response.text
        assert error_in(response.json())["type"] == "head_unavailable"
        assert int(response.headers["retry-after"]) >= 1
        assert httpx.get(f"{url}/health", timeout=90).status_code == 200
        assert httpx.get(f"{url}/ready", timeout=90).status_code == 503
    finally:
        away.rename(checkpoint)
    wait_until_ready(url)
