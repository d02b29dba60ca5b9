"""A server on the open internet: hostile requests by the hundred, slow bodies beside them, and one full replica."""

import socket
import threading
import time
from urllib.parse import urlsplit

import httpx
import pytest
from hostile_requests import CASES, HEADS, JSON, MAX_BODY, MAX_CHARACTERS, request
from serving_cluster import LABELS, SERVED, replica_pids, served, tiny_heads

from benchmarks.serving_parts.processes import proxy_pids, resident_mib
from bigbird import BigBirdForTokenClassification, BigBirdTokenizer

pytestmark = SERVED


# What cluster/operations.md states for gateway and proxy.
MAX_RESIDENT_MIB = 1024


@pytest.fixture(scope="module")
def url(tiny_checkpoint, tiny_tokenizer_dir):
    checkpoints = tiny_heads(tiny_checkpoint, BigBirdTokenizer.from_pretrained(tiny_tokenizer_dir).vocab_size)
    small = {"num_cpus": 0.1, "max_tokens_per_batch": 2048, "max_tokens_per_request": 20_000}
    heads = {task: {"checkpoint": checkpoints[task], **small} for task in (*HEADS, "text-generation")}
    tagger = str(tiny_checkpoint(BigBirdForTokenClassification, id2label=LABELS))
    two = {"min_replicas": 2, "max_replicas": 2, "max_queued_tokens": 5000, "max_tokens_per_request": 10**6}
    heads["token-classification"] = {"checkpoint": tagger, "num_cpus": 0.1, "max_tokens_per_batch": 512, **two}
    gateway = {"max_body_bytes": MAX_BODY, "max_characters_per_request": MAX_CHARACTERS, "request_timeout_s": 60}
    gateway["open_without_keys"] = True
    with served({"heads": heads, "gateway": gateway}) as instance:
        yield instance.url


def sent(url: str, content: bytes) -> tuple[int | None, bytes]:
    """The status that these bytes are answered with, None for a connection that was closed instead; and the answer."""
    place = urlsplit(url)
    answer = b""
    with socket.create_connection((place.hostname, place.port), timeout=90) as connection:
        try:
            connection.sendall(content)
            while part := connection.recv(2**16):
                answer += part
        except ConnectionError:  # refused before all of it was read
            pass
    return (int(answer[9:12]) if answer.startswith(b"HTTP/1.1 ") else None), answer


class Watch:
    """Asks /health all the while, and weighs gateway and proxy."""

    def __init__(self, url: str) -> None:
        self.slowest_s = 0.0
        self.resident_mib = 0
        self.statuses: set[int] = set()
        self._url = url
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        pids = proxy_pids() + replica_pids("gateway")
        with httpx.Client(timeout=90) as client:
            while not self._stop.wait(0.05):
                started = time.monotonic()
                self.statuses.add(client.get(f"{self._url}/health").status_code)
                self.slowest_s = max(self.slowest_s, time.monotonic() - started)
                self.resident_mib = max(self.resident_mib, *map(resident_mib, pids))


def test_no_hostile_request_breaks_stops_or_fattens_the_server(url):
    assert len(CASES) >= 200
    body = {"inputs": "Paris is [MASK] capital."}
    before = httpx.post(f"{url}/v1/fill-mask", json=body, timeout=90).json()
    place = urlsplit(url)
    head = request("/v1/fill-mask", b"", JSON, "Content-Length: 1000", length=False)
    slow = [socket.create_connection((place.hostname, place.port), timeout=90) for _ in range(1200)]
    for connection in slow:
        connection.sendall(head + b"{")
    wrong, statuses = {}, []
    lock = threading.Lock()
    cases = iter(CASES)

    def client() -> None:
        while True:
            with lock:
                name, content = next(cases, ("", b""))
            if not content:
                return
            status, answer = sent(url, content)
            statuses.append(status)
            if status is not None and status >= 500 and not (status == 504 and "0.001" in name):
                wrong[name] = answer[-300:]

    with Watch(url) as watch:
        clients = [threading.Thread(target=client) for _ in range(6)]
        for thread in clients:
            thread.start()
        for thread in clients:
            thread.join()
    for connection in slow:
        connection.close()
    print(f"{len(statuses)} requests, /health at most {watch.slowest_s:.2f} s, {watch.resident_mib} MiB resident")
    assert wrong == {}
    assert len(statuses) == len(CASES)
    assert {200, 400, 404, 405, 413, 415, 422} <= set(statuses)
    assert watch.statuses == {200}
    assert watch.slowest_s < 20, "generous: the benchmark measures it"
    assert watch.resident_mib < MAX_RESIDENT_MIB
    assert httpx.post(f"{url}/v1/fill-mask", json=body, timeout=90).json() == before


def test_a_replica_full_of_one_long_request_does_not_close_its_head(url):
    """Two replicas; one holds a request of more tokens than its queue may have, and refuses everything meanwhile."""
    path = f"{url}/v1/token-classification"
    over = threading.Event()
    long: list[int] = []

    def ask_for_long_ones() -> None:
        while not over.is_set():
            long.append(httpx.post(path, json={"inputs": ["a " * 200] * 120}, timeout=90).status_code)

    asking = threading.Thread(target=ask_for_long_ones)
    asking.start()
    with httpx.Client(timeout=90) as client:
        short = [client.post(path, json={"inputs": "Paris"}).status_code for _ in range(100)]
    over.set()
    asking.join()
    assert set(short) == {200}
    assert set(long) == {200}
