"""The command blocks of cluster/README.md that one machine can run, run: two nodes, each in a network of its own."""

import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import TIMEOUT_S, run
from local_cluster import ROOT, SHARED_MACHINE, Network, kill_all, network_or_none, processes_in

pytestmark = pytest.mark.ray

README = (ROOT / "cluster" / "README.md").read_text()
BLOCKS = dict(re.findall(r"```bash run=(\w+)\n(.*?)```", README, re.DOTALL))


def typed(block: str, directory: Path) -> str:
    """The block called `block`, with folders of the test for the ones on the page."""
    text = BLOCKS[block].replace("/mnt/shared", str(directory))
    return text.replace(".venv/bin/", f"{Path(sys.executable).parent}/").replace("out/", f"{directory}/out/")


def environment(directory: Path) -> dict[str, str]:
    """A person's who has used neither Ray nor this project before: home and Ray's folder are `directory`.

    The page's machines are this one, and it may be busy.
    """
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "PYTEST_"))}
    here = {"HOME": str(directory), "RAY_TMPDIR": str(directory)}
    return inherited | SHARED_MACHINE | here | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def short_directory() -> Iterator[Path]:
    """A short path, for Ray's sockets lie below it."""
    directory = Path(tempfile.mkdtemp(prefix="bb-", dir="/tmp"))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@dataclass
class Machines:
    """Two hosts with the README's folder, token and shared folder; a block runs on one of them or, None, here."""

    directory: Path
    network: Network
    hosts: list[tuple[str, str]]

    def run(self, block: str, host: int | None = None) -> str:
        """Types the block called `block`, with this test's head and folders for the ones on the page."""
        head, worker = (address for _, address in self.hosts)
        # What one terminal exports is there for its next block.
        exported = f"export RAY_AUTH_MODE=token HEAD={head} RAY_API_SERVER_ADDRESS=http://{head}:8265\n"
        script = "set -euo pipefail\n" + ("" if block in ("token", "head", "worker") else exported)
        script += typed(block, self.directory).replace("10.0.0.10", head)
        command = ["bash", "-c", script]
        if host is not None:
            # The one thing the page does not say: two nodes on one real machine would count the same cores.
            script = script.replace("--disable-usage-stats", "--disable-usage-stats --object-store-memory=80000000")
            if host:
                script = script.replace("--address=", f"--num-cpus=2 --node-ip-address={worker} --address=")
            command = ["ip", "netns", "exec", self.hosts[host][0], "bash", "-c", script]
        return run(command, env=environment(self.directory))


@pytest.fixture(scope="module")
def machines(short_directory) -> Iterator[Machines]:
    network = network_or_none()
    if network is None:
        pytest.skip("this system allows no network namespaces: the nodes of the page need addresses of their own")
    try:
        yield Machines(short_directory, network, [network.add_host(0), network.add_host(1)])
    finally:
        for namespace in network.namespaces:
            kill_all(lambda namespace=namespace: processes_in(namespace))
        network.remove()


def test_every_block_that_can_run_here_is_run():
    assert set(BLOCKS) == {"laptop", "token", "head", "worker", "submit", "stop", "serve", "status", "ask"}


def test_one_machine_scores_a_corpus(tmp_path, short_directory):
    # In a home of its own and before there is a cluster, which it would join: as on a machine that runs nothing else.
    said = run(["bash", "-c", "set -euo pipefail\n" + typed("laptop", tmp_path)], env=environment(short_directory))
    assert re.search(r"documents +6\n", said)
    assert pq.read_table(tmp_path / "out" / "scored").num_rows == 6


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
    deadline = time.monotonic() + TIMEOUT_S
    while not re.search(r"^  bigbird:\n    status: RUNNING", machines.run("status"), re.MULTILINE):
        assert time.monotonic() < deadline, machines.run("status")
        time.sleep(1)
    assert "token_str" in machines.run("ask")
