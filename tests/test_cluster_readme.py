"""The command blocks of cluster/README.md that one machine can run, run: two nodes, each in a network of its own."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from examples.local_cluster import ROOT, Network, kill_all, network_or_none, processes_in

README = (ROOT / "cluster" / "README.md").read_text()
BLOCKS = dict(re.findall(r"```bash run=(\w+)\n(.*?)```", README, re.DOTALL))
STEP_TIMEOUT_S = 600.0


@dataclass
class Machines:
    """Two hosts with the README's folder, token and shared folder; a block runs on one of them or, None, here."""

    directory: Path
    network: Network
    hosts: list[tuple[str, str]]

    def run(self, block: str, host: int | None = None, *, timeout_s: float = STEP_TIMEOUT_S) -> str:
        """Types the block called `block`, with this test's head and folders for the ones on the page."""
        head, worker = (address for _, address in self.hosts)
        text = BLOCKS[block].replace("10.0.0.10", head).replace("/mnt/shared", str(self.directory))
        text = text.replace(".venv/bin/", f"{Path(sys.executable).parent}/").replace("out/", f"{self.directory}/out/")
        # What one terminal exports is there for its next block.
        exported = f"export RAY_AUTH_MODE=token HEAD={head} RAY_API_SERVER_ADDRESS=http://{head}:8265\n"
        script = "set -euo pipefail\n" + ("" if block in ("laptop", "token", "head", "worker") else exported) + text
        command = ["bash", "-c", script]
        if host is not None:
            # The one thing the page does not say: two nodes on one real machine would count the same cores.
            script = script.replace("--disable-usage-stats", "--disable-usage-stats --object-store-memory=80000000")
            if host:
                script = script.replace("--address=", f"--num-cpus=2 --node-ip-address={worker} --address=")
            command = ["ip", "netns", "exec", self.hosts[host][0], "bash", "-c", script]
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "PYTEST_"))}
        here = {
            "HOME": str(self.directory),
            "RAY_TMPDIR": str(self.directory),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        # Into a file: a pipe would stay open in the daemons that `ray start` leaves behind.
        with (self.directory / f"{block}.log").open("wb") as log:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=inherited | here,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                timeout=timeout_s,
            )
        said = (self.directory / f"{block}.log").read_text(errors="replace")
        assert done.returncode == 0, f"{block}:\n{said[-4000:]}"
        return said


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    network = network_or_none()
    if network is None:
        pytest.skip("this system allows no network namespaces: the nodes of the page need addresses of their own")
    directory = Path(tempfile.mkdtemp(prefix="bb-", dir="/tmp"))  # short: Ray's sockets lie below it
    try:
        yield Machines(directory, network, [network.add_host(0), network.add_host(1)])
    finally:
        for namespace in network.namespaces:
            kill_all(lambda namespace=namespace: processes_in(namespace))
        network.remove()
        shutil.rmtree(directory, ignore_errors=True)


def test_every_block_that_can_run_here_is_run():
    assert set(BLOCKS) == {"laptop", "token", "head", "worker", "submit", "stop", "serve", "status", "ask"}


def test_several_machines_from_the_token_to_an_answer(machines):
    texts = [f"import module_{number}\n" * 40 for number in range(12)]
    table = pa.table({"id": [f"d{number}" for number in range(12)], "text": texts})
    pq.write_table(table, machines.directory / "docs.parquet")

    machines.run("token")
    assert (machines.directory / ".ray" / "auth_token").stat().st_size > 20
    machines.run("head", 0)
    machines.run("worker", 1)
    assert "succeeded" in machines.run("submit")
    assert "12 done before, 0 to score" in machines.run("stop")
    assert pq.read_table(machines.directory / "scored").num_rows == 12

    machines.run("serve")
    deadline = time.monotonic() + STEP_TIMEOUT_S
    while not re.search(r"^  bigbird:\n    status: RUNNING", machines.run("status"), re.MULTILINE):
        assert time.monotonic() < deadline, machines.run("status")
        time.sleep(1)
    assert "token_str" in machines.run("ask")


def test_one_machine_scores_a_corpus(machines):
    assert re.search(r"documents +6\n", machines.run("laptop"))
    assert pq.read_table(machines.directory / "out" / "scored").num_rows == 6
