"""Hub ids: through huggingface_hub, its cache and its offline mode, against a small hub on the loopback interface."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bigbird import BigBirdForMaskedLM
from bigbird.checkpoint import load_model
from bigbird.errors import CheckpointError
from bigbird.loading.hub import resolve
from bigbird.tokenization.tokenizer import BigBirdTokenizer

ROOT = Path(__file__).parents[2]
REPOSITORY = "someone/small-bird"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """As much of the hub's protocol as downloading one repository takes; `requests` lists what was asked."""

    daemon_threads = True

    def __init__(self, directory):
        super().__init__(("127.0.0.1", 0), Handler)
        self.directory = directory
        self.requests = []
        self.uploaded = {}

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        path = self.path.partition("?")[0]
        self.server.requests.append((self.command, path))
        if path.startswith(f"/api/models/{REPOSITORY}"):
            names = sorted(file.name for file in self.server.directory.iterdir())
            siblings = [{"rfilename": name} for name in names]
            info = {"id": REPOSITORY, "_id": "1", "sha": COMMIT, "siblings": siblings, "tags": [], "private": False}
            if "/tree/" in path:
                info = [{"type": "file", "path": name, "size": 1, "oid": "1"} for name in names]
            return self._send(json.dumps(info).encode(), "application/json")
        file = self.server.directory / path.rpartition("/")[2]
        if path.startswith(f"/{REPOSITORY}/resolve/") and file.is_file():
            return self._send(file.read_bytes(), "application/octet-stream")
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        return self.end_headers()

    do_HEAD = do_GET

    def do_POST(self):
        """What an upload asks for: a repository, how to send each file, and a commit of those."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization', 'me')}/{asked['name']}"
            answer = {"url": f"{self.server.url}/{name}", "name": name, "id": name}
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            answer = {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
        else:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.uploaded[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            answer = {"commitUrl": f"{self.server.url}/me/new-bird/commit/{COMMIT}", "commitOid": COMMIT}
        self.server.requests.append((self.command, self.path.partition("?")[0]))
        self._send(json.dumps(answer).encode(), "application/json")

    def _send(self, body, kind):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub(tiny_checkpoint, tmp_path):
    directory = tmp_path / "repository"
    directory.mkdir()
    for file in tiny_checkpoint(BigBirdForMaskedLM).iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    (directory / "README.md").write_text("not needed to load")
    (directory / "pytorch_model.bin").write_bytes(b"not needed beside safetensors")
    server = Hub(directory)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def cache(hub, tmp_path, monkeypatch):
    """This process's huggingface_hub, turned to the hub of the test and a cache of its own."""
    constants = pytest.importorskip("huggingface_hub.constants", reason="needs the extra named hub")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE  # made of the endpoint at import
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + template[template.index("/{repo_id}") :])
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    return tmp_path / "home"


def files_asked(hub):
    return {path.rpartition("/")[2] for _, path in hub.requests if "/resolve/" in path}


OFFLINE = """
import sys
from bigbird.checkpoint import load_model
from bigbird.tokenization.tokenizer import BigBirdTokenizer
print(BigBirdTokenizer.from_pretrained(sys.argv[1]).encode("a [MASK]"), type(load_model(sys.argv[1])).__name__)
"""


def test_a_hub_id_loads_and_then_loads_offline_from_the_cache(hub, cache):
    ids = BigBirdTokenizer.from_pretrained(REPOSITORY).encode("a [MASK]")
    assert files_asked(hub) == {"config.json", "tokenizer.json"}, "a tokenizer needs no weights"
    assert type(load_model(REPOSITORY)) is BigBirdForMaskedLM
    assert files_asked(hub) == {"config.json", "model.safetensors", "tokenizer.json"}
    hub.requests.clear()
    # A process of its own: huggingface_hub reads the environment when it is imported.
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "1"}
    process = subprocess.run(
        [sys.executable, "-c", OFFLINE, REPOSITORY],
        cwd=ROOT,
        env={key: value for key, value in environment.items() if key != "HF_HUB_CACHE"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.strip() == f"{ids} BigBirdForMaskedLM"
    assert not hub.requests


def test_model_tokenizer_and_configuration_are_uploaded_as_they_save_themselves(hub, cache, tmp_path):
    model, tokenizer = load_model(hub.directory), BigBirdTokenizer.from_pretrained(hub.directory)
    for number, saved in enumerate((model, tokenizer, model.config)):
        hub.uploaded.clear()
        address = saved.push_to_hub("me/new-bird", token="hf_secret", private=True, commit_message="a bird")
        assert address == f"{hub.url}/me/new-bird/commit/{COMMIT}"
        saved.save_pretrained(tmp_path / str(number))
        written = {file.name: file.read_bytes() for file in (tmp_path / str(number)).iterdir()}
        assert {name: body for name, body in hub.uploaded.items() if name != ".gitattributes"} == written
    assert ("POST", "/api/models/me/new-bird/commit/main") in hub.requests


def test_a_revision_a_cache_and_a_subfolder_are_passed_on(hub, cache, tmp_path):
    options = {"revision": "v1", "cache_dir": tmp_path / "elsewhere", "token": "hf_secret"}
    assert type(load_model(REPOSITORY, **options)) is BigBirdForMaskedLM
    assert BigBirdTokenizer.from_pretrained(REPOSITORY, **options).encode("a")
    assert any(path.startswith(f"/api/models/{REPOSITORY}/revision/v1") for _, path in hub.requests)
    assert (tmp_path / "elsewhere" / "models--someone--small-bird").is_dir()
    assert not (cache / "hub").exists()
    assert type(load_model(REPOSITORY, local_files_only=True, **options)) is BigBirdForMaskedLM
    with pytest.raises(CheckpointError, match="the hub or its cache did not give it"):
        load_model(REPOSITORY, local_files_only=True)
    with pytest.raises(CheckpointError, match="there is no subfolder below"):
        load_model(REPOSITORY, subfolder="below", **options)


def test_legacy_weights_are_fetched_where_there_are_no_others(hub, cache):
    (hub.directory / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):  # found, and refused: its content is none
        load_model(REPOSITORY)
    assert files_asked(hub) == {"config.json", "tokenizer.json", "pytorch_model.bin"}


@pytest.mark.usefixtures("cache")
def test_what_the_hub_does_not_have_is_one_error():
    with pytest.raises(CheckpointError, match="someone/else: there is no such directory, and the hub or its cache"):
        load_model("someone/else")


@pytest.mark.usefixtures("cache")
def test_what_the_cache_does_not_have_offline_is_one_error(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=f"{REPOSITORY}: there is no such directory, and the hub or its cache"):
        load_model(REPOSITORY)
    assert not hub.requests


def test_without_huggingface_hub_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match="needs the huggingface_hub package"):
        resolve("google/bigbird-roberta-base")


@pytest.mark.parametrize("name", ["no/such/path", "./missing", "/missing", "../a", "a b", ""])
def test_what_is_neither_directory_nor_hub_id_is_never_asked_for(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match="not a hub id"):
        resolve(name)


def test_a_directory_is_taken_as_it_is_and_a_file_refused(tmp_path):
    assert resolve(tmp_path) == tmp_path
    (tmp_path / "model.bin").touch()
    with pytest.raises(CheckpointError, match=r"expected a directory with config\.json, found a file"):
        resolve(tmp_path / "model.bin")
