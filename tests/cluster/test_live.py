"""A real cluster of three nodes with token authentication: a job stopped, sent again, a node lost; heads served."""

import json
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from commands import TIMEOUT_S, run
from local_cluster import ROOT, LocalCluster, Node, local_cluster

from bigbird import BigBirdForMaskedLM
from serving.http.edge.proxy import SERVE_ENVIRONMENT

pytestmark = pytest.mark.ray

NUM_DOCUMENTS = 600


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with local_cluster([1, 1, 1], variables=SERVE_ENVIRONMENT) as running:
        yield running


def ray(cluster: LocalCluster, *arguments: str) -> str:
    """What a `ray` command says that a person with the token types at the root of the repository."""
    return run(["ray", *arguments], env=cluster.environment)


def submit(cluster: LocalCluster, submission_id: str, entrypoint: list[str], *options: str) -> None:
    ray(cluster, "job", "submit", "--submission-id", submission_id, "--working-dir", ".", *options, "--", *entrypoint)


def check_uploaded(cluster: LocalCluster) -> None:
    """The working directory as the nodes have it: what a job needs and nothing that is large or secret."""
    (folder,) = (cluster.directory / "ray").glob("session_2*/runtime_resources/working_dir_files/_ray_pkg_*/")
    names = {path.name for path in folder.iterdir()}
    assert {"bigbird", "pipelines", "checkpoints"} <= names
    assert not names & {".git", ".venv", "tests", "benchmarks", "out"}
    num_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert num_bytes < 60e6, f"{num_bytes:,} bytes travel with every job"


def status(cluster: LocalCluster, submission_id: str) -> str:
    request = Request(f"{cluster.dashboard_url}/api/jobs/{submission_id}", headers=authorization(cluster))
    with urlopen(request, timeout=60) as response:
        return json.load(response)["status"]


def authorization(cluster: LocalCluster) -> dict[str, str]:
    return {"Authorization": f"Bearer {(cluster.directory / 'token').read_text()}"}


def wait_for_parts(output: Path, count: int, cluster: LocalCluster, submission_id: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while len(list(output.glob("part-*.parquet"))) < count:
        if status(cluster, submission_id) not in ("PENDING", "RUNNING") or time.monotonic() > deadline:
            pytest.fail(f"no {count} files: {ray(cluster, 'job', 'logs', submission_id)[-3000:]}")
        time.sleep(0.1)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.parquet"
    texts = [f"Document {number} reads its neighbours. " * (5 + number % 60) for number in range(NUM_DOCUMENTS)]
    table = pa.table({"id": [f"d{number}" for number in range(NUM_DOCUMENTS)], "text": texts})
    pq.write_table(table, path, row_group_size=10)
    return path


def test_without_the_token_nobody_gets_in(cluster):
    for headers in ({}, {"Authorization": "Bearer guessed"}):
        request = Request(f"{cluster.dashboard_url}/api/jobs/", headers=headers)
        with pytest.raises(HTTPError) as refused:
            urlopen(request, timeout=60)
        assert refused.value.code in (401, 403)
        refused.value.close()
    # What a kubelet probes answers all the same, and says nothing.
    probed = [f"{cluster.dashboard_url}/api/gcs_healthz"]
    for node in cluster.nodes:
        port = node.ports["dashboard-agent-listen-port"]
        probed += [f"http://{node.address}:{port}/api/local_raylet_healthz"]
    for url in probed:
        with urlopen(url, timeout=60) as response:
            assert response.read() == b"success"


@contextmanager
def hidden(node: Node, folders: list[Path]) -> Iterator[None]:
    """Something else lies at these folders on `node`: nothing."""
    on_node = ["nsenter", "--target", str(node.process.pid), "--mount"]
    for folder in folders:
        run([*on_node, "mount", "-t", "tmpfs", "none", str(folder)])
    try:
        yield
    finally:
        for folder in folders:
            run([*on_node, "umount", "--lazy", str(folder)])


def test_a_job_whose_nodes_do_not_share_its_files_is_refused_and_names_node_and_files(
    cluster, corpus, tmp_path, tiny_checkpoint
):
    if cluster.network is None:
        pytest.skip("NOT CHECKED: hiding a folder from one node needs root and iproute2")
    places = {name: tmp_path / name for name in ("input", "output", "model")}
    shutil.copytree(tiny_checkpoint(BigBirdForMaskedLM), places["model"])
    places["input"].mkdir()
    places["output"].mkdir()
    corpus = corpus.rename(places["input"] / "corpus.parquet")
    entrypoint = ["python", "-m", "pipelines.score", "--task", "masked-lm-scoring", "--id-column", "id"]
    entrypoint += ["--model", str(places["model"]), "--input", str(corpus), "--output", str(places["output"])]
    node = cluster.nodes[1]
    with hidden(node, list(places.values())):
        submit(cluster, "blind", entrypoint, "--no-wait", "--entrypoint-num-cpus", "0")
        said = ray(cluster, "job", "logs", "--follow", "blind")
    assert status(cluster, "blind") == "FAILED"
    for name, place in places.items():
        assert re.search(rf"node {re.escape(node.address)} has no {name} at {re.escape(str(place))}/", said), said
    assert not list(places["output"].glob("part-*.parquet"))


def test_a_job_stopped_half_way_and_a_node_lost_leave_every_document_scored_once(
    cluster, corpus, tmp_path, tiny_checkpoint
):
    output = tmp_path / "scored"
    entrypoint = ["python", "-m", "pipelines.score", "--task", "masked-lm-scoring"]
    entrypoint += ["--model", str(tiny_checkpoint(BigBirdForMaskedLM)), "--input", str(corpus)]
    entrypoint += ["--output", str(output), "--id-column", "id", "--target-file-size", "8K"]

    submit(cluster, "first", entrypoint, "--no-wait", "--entrypoint-num-cpus", "0")
    wait_for_parts(output, 2, cluster, "first")
    check_uploaded(cluster)
    ray(cluster, "job", "stop", "first")
    assert status(cluster, "first") == "STOPPED"
    done = len(list(output.glob("part-*.parquet")))

    submit(cluster, "second", entrypoint, "--no-wait")
    wait_for_parts(output, done + 2, cluster, "second")
    cluster.kill(cluster.nodes[-1])
    followed = ray(cluster, "job", "logs", "--follow", "second")

    assert status(cluster, "second") == "SUCCEEDED", followed[-3000:]
    before = re.search(r"([\d,]+) done before", followed)
    assert before, followed
    assert 0 < int(before[1].replace(",", "")) < NUM_DOCUMENTS
    rows = pq.read_table(output).to_pylist()
    assert sorted(row["id"] for row in rows) == sorted(f"d{number}" for number in range(NUM_DOCUMENTS))
    assert all(row["error"] is None and row["num_tokens"] > 0 for row in rows)


@dataclass
class Traffic:
    """Clients that ask without a pause until told to stop; what each answer was."""

    url: str
    statuses: list[int] = field(default_factory=list)
    answers: set[str] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def ask(self) -> None:
        body = json.dumps({"inputs": "Paris is the [MASK] of France", "parameters": {"top_k": 1}}).encode()
        request = Request(self.url, data=body, headers={"Content-Type": "application/json"})
        try:
            with urlopen(request, timeout=60) as response:
                self.answers.add(json.dumps(json.load(response), sort_keys=True))
                self.statuses.append(response.status)
        except HTTPError as error:
            self.failures.append(f"{error.code}: {error.read()[:200]!r}")
            error.close()
        except OSError as error:
            self.failures.append(repr(error))

    def keep_asking(self) -> None:
        while not self.stop.is_set():
            self.ask()

    @contextmanager
    def running(self, num_clients: int = 8) -> Iterator[None]:
        threads = [threading.Thread(target=self.keep_asking) for _ in range(num_clients)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stop.set()
            for thread in threads:
                thread.join()

    def wait_for_answers(self, count: int, *, different: int = 1) -> None:
        """Until `count` more have come, and `different` ones in all."""
        deadline = time.monotonic() + TIMEOUT_S
        wanted = len(self.statuses) + count
        while (len(self.statuses) < wanted or len(self.answers) < different) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert len(self.statuses) >= wanted, self.failures
        assert len(self.answers) == different, (self.answers, self.failures)


def serve_config(cluster: LocalCluster, checkpoint: Path) -> Path:
    """cluster/serve.yaml with one head of two replicas, each on a node of its own."""
    config = yaml.safe_load((ROOT / "cluster" / "serve.yaml").read_text())
    if cluster.network is None:
        config["proxy_location"] = "HeadOnly"  # on one address there is one port 8000
    head = {"checkpoint": str(checkpoint), "num_cpus": 0.6, "min_replicas": 2, "max_replicas": 2}
    del config["applications"][0]["args"]["checkpoints"]
    config["applications"][0]["args"]["heads"] = {"fill-mask": head}
    config["applications"][0]["args"]["gateway"] = {"min_replicas": 2, "max_replicas": 4, "open_without_keys": True}
    path = cluster.directory / "serve.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def deploy(cluster: LocalCluster, config: Path) -> None:
    run(["serve", "deploy", str(config), "--address", cluster.dashboard_url], env=cluster.environment)


def wait_until_running(cluster: LocalCluster) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        request = Request(f"{cluster.dashboard_url}/api/serve/applications/", headers=authorization(cluster))
        with urlopen(request, timeout=30) as response:
            application = json.load(response)["applications"].get("bigbird", {"status": "absent", "deployments": {}})
        healthy = [deployment["status"] for deployment in application["deployments"].values()]
        if application["status"] == "RUNNING" and set(healthy) == {"HEALTHY"}:
            return
        assert application["status"] != "DEPLOY_FAILED", application["message"]
        assert time.monotonic() < deadline, application
        time.sleep(0.5)


def drain(cluster: LocalCluster, node: Node) -> None:
    """What a pod of the RayService does before it ends, on a node and without the wait."""
    manifest = yaml.safe_load((ROOT / "cluster" / "kubernetes" / "base" / "ray-service.yaml").read_text())
    (group,) = manifest["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    *shell, script = container["lifecycle"]["preStop"]["exec"]["command"]
    inside = ["ip", "netns", "exec", node.namespace] if node.namespace else []
    # KubeRay sets the address in every pod.
    environment = cluster.environment | {"RAY_ADDRESS": cluster.gcs_address}
    run([*inside, *shell, script.partition(";")[0]], env=environment)


def test_a_served_head_outlives_a_new_checkpoint_a_lost_node_and_one_that_drains(cluster, tiny_checkpoint):
    while sum(node.process.poll() is None for node in cluster.nodes) < 3:
        cluster.add_node(1)
    old, new = (tiny_checkpoint(BigBirdForMaskedLM, seed=seed) for seed in (1, 2))
    deploy(cluster, serve_config(cluster, old))
    wait_until_running(cluster)

    traffic = Traffic(url=f"http://{cluster.head.address}:8000/v1/fill-mask")
    with traffic.running():
        traffic.wait_for_answers(5)
        deploy(cluster, serve_config(cluster, new))
        traffic.wait_for_answers(5, different=2)  # the new checkpoint answers differently
        wait_until_running(cluster)
        cluster.kill(cluster.nodes[-1])
        traffic.wait_for_answers(20, different=2)
        drain(cluster, cluster.nodes[-2])
        traffic.wait_for_answers(20, different=2)
    assert traffic.failures == []
    run(["serve", "shutdown", "--yes", "--address", cluster.dashboard_url], env=cluster.environment)
