"""HAProxy before the gateways: what is changed of Ray's configuration, by HAProxy itself; and a server behind it."""

import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import threading
from pathlib import Path

import httpx
import pytest
from error_bodies import error_in
from local_cluster import free_base
from serving_cluster import LABELS, OF_RAY, replica_pids, wait_until
from serving_command import TASK, finishes_what_it_accepted, started, wait_until_serving

from bigbird import BigBirdForTokenClassification
from serving.http.edge import haproxy

pytestmark = OF_RAY


class Gateways:
    """Two servers that count requests by id; the first to get one closes the connection without a word."""

    def __init__(self):
        self.requests: list[tuple[str, str, int]] = []
        self._sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        self.ports = [one.getsockname()[1] for one in self._sockets]
        for one in self._sockets:
            threading.Thread(target=self._serve, args=(one,), daemon=True).start()

    def close(self):
        for one in self._sockets:
            one.close()

    def _serve(self, listening):
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection):
        with connection, connection.makefile("rb") as stream:
            path = stream.readline().split()[1].decode()
            headers = dict(line.lower().split(b": ", 1) for line in iter(stream.readline, b"\r\n"))
            if path == "/-/healthz":
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return
            body = stream.read(int(headers.get(b"content-length", b"0")))
            self.requests.append((path, headers[b"x-request-id"].decode().strip(), len(body)))
            if len([one for one in self.requests if one[0] == path]) > 1:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")


@pytest.fixture(scope="module")
def gateways():
    running = Gateways()
    yield running
    running.close()


@pytest.fixture(scope="module")
def url(gateways):
    """HAProxy before these gateways, as Ray and the command configure it, but for the time a head may take."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # for the length of a socket's path
        yield from served_by_haproxy(Path(folder), gateways)


def served_by_haproxy(folder, gateways):
    from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
    from ray.serve.config import HTTPOptions

    file = folder / "haproxy.cfg"
    port = free_base("127.0.0.1")
    settings = HAProxyConfig(
        http_options=HTTPOptions(host="127.0.0.1", port=port),
        socket_path=f"{folder}/admin.sock",
        server_state_base=str(folder),
        server_state_file=f"{folder}/state",
        metrics_socket_path=f"{folder}/metrics.sock",
        is_head=True,
    )
    servers = [ServerConfig(name=f"s{port}", host="127.0.0.1", port=port) for port in gateways.ports]
    backend = BackendConfig(name="http-bigbird", path_prefix="/", app_name="bigbird", servers=servers)
    api = HAProxyApi(cfg=settings, backend_configs={backend.name: backend}, config_file_path=str(file))
    api._generate_config_file_internal()
    command = haproxy.environment(folder, 1)["RAY_SERVE_HAPROXY_BINARY_PATH"]
    checked = subprocess.run([command, "-c", "-f", file], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    file.write_text(file.read_text().replace("timeout http-request 20s", "timeout http-request 1s"))
    with subprocess.Popen([haproxy.program(), "-db", "-f", file], stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: listens(port) or process.poll() is not None)
        yield f"http://127.0.0.1:{port}"
        process.kill()


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def send(url, *packets):
    """What is answered to these bytes, sent one after the other."""
    port = int(url.rpartition(":")[2])
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for packet in packets:
            connection.sendall(packet)
            threading.Event().wait(0.05)
        while part := connection.recv(2**16):
            answer += part
    return answer


HEAD = b"POST %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%bContent-Length: %d\r\n\r\n"


@pytest.mark.parametrize("size", [0, 100, 40_000])
@pytest.mark.parametrize("given", ["", "of-the-client", "not fit for a log"])
def test_a_request_whose_gateway_dies_is_sent_again_under_one_id(url, gateways, size, given):
    path = f"/v1/{size}-{len(given)}"
    header = f"X-Request-ID: {given}\r\n".encode() if given else b""
    answer = send(url, HEAD % (path.encode(), header, size), b"x" * size)
    assert answer.startswith(b"HTTP/1.1 200 ")
    (first, again) = [(request, length) for at, request, length in gateways.requests if at == path]
    assert first == again
    assert first[1] == size
    assert (first[0] == given) == (given == "of-the-client")


@pytest.mark.parametrize(("path", "size"), [("/v1/files", 100), ("/v1/large", 2 * haproxy.BUFFER_BYTES)])
def test_what_is_not_sent_again_is_503_in_the_one_body(url, gateways, path, size):
    head, _, body = send(url, HEAD % (path.encode(), b"", size), b"x" * size).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nretry-after: 1" in head.lower()
    assert error_in(json.loads(body))["type"] == "head_unavailable"
    assert len([at for at, _, _ in gateways.requests if at == path]) == 1


@pytest.mark.parametrize("packet", [b"POST /v1/late HTTP/1.1\r\n", HEAD % (b"/v1/late", b"", 2) + b"x"])
def test_a_request_that_is_not_whole_in_time_gets_to_no_gateway(url, gateways, packet):
    head, _, body = send(url, packet).partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.1 408 ", b"HTTP/1.0 408 "))
    if b"\r\n\r\n" in packet:  # of an incomplete head, HAProxy has its own page
        assert error_in(json.loads(body))["type"] == "request_timeout"
    assert not [at for at, _, _ in gateways.requests if at == "/v1/late"]


def test_a_configuration_of_ray_s_that_is_not_as_expected_is_not_run(tmp_path):
    with pytest.raises(ValueError, match="Ray's configuration of HAProxy has 0 times"):
        haproxy.changed("global\n    maxconn 4096\n", tmp_path)


@pytest.mark.parametrize("binary", ["", "/usr/sbin/haproxy"])
def test_haproxy_as_ray_alone_configures_it_is_refused(monkeypatch, binary):
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "1")
    monkeypatch.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", binary)
    with pytest.raises(ValueError, match="RAY_SERVE_HAPROXY_BINARY_PATH is not the command bigbird-haproxy"):
        haproxy.is_enabled()


def test_the_page_names_every_variable_without_which_a_gateway_refuses_to_start(monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
    shown = dict(re.findall(r"(RAY_SERVE_\w+)=(\S+)", page))
    shown["RAY_SERVE_HAPROXY_BINARY_PATH"] = "/usr/local/bin/bigbird-haproxy"
    for name, value in shown.items():
        monkeypatch.setenv(name, value)
    assert haproxy.is_enabled()
    assert haproxy.SETTINGS.items() <= shown.items()
    for name in haproxy.SETTINGS:
        monkeypatch.delenv(name)
        with pytest.raises(ValueError, match=name):
            haproxy.is_enabled()


@pytest.mark.ray
def test_a_server_behind_haproxy_keeps_what_serve_s_proxy_gives(tiny_checkpoint, tmp_path):
    checkpoint = tiny_checkpoint(BigBirdForTokenClassification, id2label=LABELS)
    keys = tmp_path / "keys"
    keys.write_text("right-key\n")
    with started(checkpoint, "--ingress", "haproxy", "--api-keys-file", str(keys)) as (process, url, output):
        wait_until_serving(process, url, output)
        key = {"Authorization": "Bearer right-key"}
        path, body = f"{url}/v1/{TASK}", {"inputs": "Paris"}
        steering = {"X-Request-Timeout-Seconds": "0.0001", "serve_multiplexed_model_id": "x", "X-Request-ID": "mine"}
        with httpx.Client(timeout=90, headers=key) as client:
            assert httpx.post(path, json=body, timeout=90).status_code == 401
            answer = client.post(path, json=body, headers={"X-Request-ID": "mine"})
            assert (answer.status_code, answer.headers["x-request-id"]) == (200, "mine")
            assert client.post(path, json=body, headers=steering).status_code == 504
            assert client.post(path, content=b"[" * 9 * 2**20).status_code == 413
            assert client.get(f"{url}/v1/nowhere").status_code == 404
        gateway_is_killed(path, body, key)
        finishes_what_it_accepted(process, url, output, key)


def gateway_is_killed(path, body, key):
    answers = []
    over = threading.Event()

    def ask():
        with httpx.Client(timeout=90, headers=key) as client:
            while not over.is_set():
                answers.append(client.post(path, json=body).status_code)

    clients = [threading.Thread(target=ask) for _ in range(3)]
    for client in clients:
        client.start()
    (pid,) = replica_pids("gateway")
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: replica_pids("gateway") not in ([], [pid]))
    before = len(answers)
    wait_until(lambda: len(answers) > before + 10)
    over.set()
    for client in clients:
        client.join()
    assert set(answers) == {200}
