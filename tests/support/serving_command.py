"""`bigbird-serve` as a process of its own, and how it is to end."""

import contextlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
from local_cluster import free_base
from serving_cluster import status, wait_until

TASK = "token-classification"
LONG = "Long documents are read in blocks. Each block of tokens reads its neighbours. " * 100


@contextlib.contextmanager
def started(checkpoint: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str, list[str]]]:
    """A server of its own, its address and the lines it prints."""
    port = free_base("127.0.0.1")
    command = [sys.executable, "-m", "serving.app", "--port", str(port), "--head", f"{TASK}={checkpoint}", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        output: list[str] = []
        reader = threading.Thread(target=lambda: output.extend(process.stdout or ()), daemon=True)
        reader.start()
        try:
            yield process, f"http://127.0.0.1:{port}", output
        finally:
            process.kill()
            process.wait()
            reader.join(10)


def wait_until_serving(process: subprocess.Popen[str], url: str, output: list[str]) -> None:
    wait_until(lambda: process.poll() is not None or status(f"{url}/ready") == 200, 150)
    assert process.poll() is None, "".join(output)


def finishes_what_it_accepted(
    process: subprocess.Popen[str], url: str, output: list[str], key: dict[str, str] | None = None
) -> None:
    """Asks for more than it answers at once, and ends it: SIGTERM drops nothing of that."""
    answers: list[int | str] = []
    refused: list[int | None] = []
    # As many long texts as keep the model busy for some seconds.
    body = json.dumps({"inputs": [LONG] * 32})

    def ask() -> None:
        try:
            headers = {"Content-Type": "application/json", **(key or {})}
            answers.append(httpx.post(f"{url}/v1/{TASK}", content=body, headers=headers, timeout=90).status_code)
        except httpx.TransportError as error:
            answers.append(repr(error))

    clients = [threading.Thread(target=ask) for _ in range(8)]
    for client in clients:
        client.start()

    def all_accepted() -> bool:
        heads = httpx.get(f"{url}/info", headers=key, timeout=30).json()["heads"]
        return bool(heads[0]["details"]) and heads[0]["details"]["num_open"] + len(answers) >= len(clients)

    wait_until(all_accepted)
    assert len(answers) < len(clients), "the machine is too fast for this test: give it more"
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: (said := status(f"{url}/health")) != 200 and (refused.append(said) or True))
    for client in clients:
        client.join()
    assert refused in ([503], [None]), "not 404, after which no client tries again"
    assert answers == [200] * len(clients), "".join(output)
    assert process.wait(120) == 0
    assert "Traceback" not in "".join(output)
