"""The scoring job on a cluster that breaks: actors killed, nodes lost, the driver killed and started again.

One seed runs in CI. `make chaos` runs as many as CHAOS_SEEDS says, over 2,000 documents: `-m chaos`.
"""

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from ray.cluster_utils import Cluster
from ray_session import in_the_end

from bigbird import BigBirdForMaskedLM
from bigbird.predictors import OPTIONS, load_predictor
from pipelines import score
from pipelines.scoring.inputs.listing import list_inputs
from pipelines.scoring.inputs.units import cut_units

ROOT = Path(__file__).parents[2]
WORDS = [
    "long",
    "documents",
    "are",
    "read",
    "in",
    "blocks",
    "and",
    "each",
    "block",
    "of",
    "tokens",
    "reads",
    "its",
    "neighbours",
]
NUM_SEEDS = int(os.environ.get("CHAOS_SEEDS", "20"))
PATIENCE_S = 300.0
TASK = "masked-lm-scoring"
FILE_BYTES, NUM_PASSES = 2048, 4
HEAD = {"num_cpus": 0, "include_dashboard": False}

# A cluster that is broken on purpose leaves processes and sockets behind.
pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def write_corpus(path, num_documents):
    """Four files, of which one row is null. Their texts."""
    random_ = random.Random(0)
    texts = [" ".join(random_.choices(WORDS, k=random_.randint(1, 60))) for _ in range(num_documents)]
    texts[7] = None
    table = pa.table({"id": range(num_documents), "text": texts})
    path.mkdir()
    for number in range(4):
        part = table.slice(number * num_documents // 4, num_documents // 4)
        pq.write_table(part, path / f"{number}.parquet", row_group_size=50)
    return texts


def assert_scored(found, texts, model):
    """Every text once, and as the library scores it: a row scored in another batch may differ in the last digits."""
    expected = load_predictor(TASK, model)(texts, OPTIONS[TASK](num_passes=NUM_PASSES))
    assert sorted(found) == list(range(len(texts)))
    for number, record in enumerate(expected):
        row = found[number]
        assert row["text"] == texts[number]
        if "error" in record:
            assert (row["error"]["type"], row["nll"]) == (record["error"]["type"], None)
        else:
            assert {name: row[name] for name in record} == pytest.approx(record, rel=1e-4)


class Job:
    """The command, as a process of its own, on the cluster."""

    def __init__(self, cluster, model, corpus, output):
        self.output = Path(output)
        self.command = [
            *(sys.executable, "-m", "pipelines.score", "--task", TASK, "--model", str(model)),
            *("--input", str(corpus), "--output", str(output), "--target-file-size", str(FILE_BYTES)),
            *("--num-actors", "2", "--num-cpus-per-actor", "1", "--option", f"num_passes={NUM_PASSES}"),
        ]
        self.num_files = len(cut_units(list_inputs([str(corpus)], read={"text": "text"}).files, FILE_BYTES))
        self.environment = {**os.environ, "RAY_ADDRESS": cluster.address}
        self.process = None

    def start(self):
        log = open(f"{self.output}.log", "ab")  # noqa: SIM115
        self.process = subprocess.Popen(self.command, cwd=ROOT, env=self.environment, stdout=log, stderr=log)
        log.close()

    @property
    def running(self):
        return self.process is not None and self.process.poll() is None

    def kill(self):
        self.process.kill()
        self.process.wait()

    def num_parts(self):
        return len(list(self.output.glob("part-*")))

    def wait_for_parts(self, number):
        """Until so many files are finished, or the job is."""
        deadline = time.monotonic() + PATIENCE_S
        while self.running and self.num_parts() < number:
            assert time.monotonic() < deadline, self.log()[-3000:]
            time.sleep(0.02)

    def finish(self):
        deadline = time.monotonic() + PATIENCE_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.log()[-3000:]
            time.sleep(0.1)
        assert self.process.returncode == score.DONE_WITH_ERRORS, self.log()[-3000:]

    def log(self):
        return Path(f"{self.output}.log").read_text()

    def wait_for(self, text):
        """Until the job has said so."""
        deadline = time.monotonic() + PATIENCE_S
        while text not in self.log():
            assert self.running, self.log()[-3000:]
            assert time.monotonic() < deadline, self.log()[-3000:]
            time.sleep(0.1)

    def records(self):
        table = pa.concat_tables(pq.read_table(path, partitioning=None) for path in self.output.glob("part-*"))
        rows = table.replace_schema_metadata(None).to_pylist()
        assert sorted(row["id"] for row in rows) == list(range(len(rows)))
        return {row["id"]: row for row in rows}


def scoring_actors():
    """Processes of scoring actors below this process: workers are children of the raylets it started."""
    parents, titles = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "status").read_text()
            titles[int(folder.name)] = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        parents[int(folder.name)] = int(status.partition("PPid:")[2].split()[0])

    def ours(process):
        while process > 1 and process != os.getpid():
            process = parents.get(process, 0)
        return process == os.getpid()

    return sorted(p for p, title in titles.items() if b"ScoreUnit" in title and ours(p))


@pytest.fixture(scope="module")
def cluster():
    """A head that does no work and no worker yet, as on a cluster that grows by demand."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        ray.shutdown()
        cluster = in_the_end(lambda: Cluster(initialize_head=True, head_node_args=HEAD))
        yield cluster
        cluster.shutdown()


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    return tiny_checkpoint(BigBirdForMaskedLM)


def killed(process):
    """Whether there was such a process; one may have ended since it was found."""
    with contextlib.suppress(ProcessLookupError):
        if process:
            os.kill(process, signal.SIGKILL)
            return True
    return False


def disturb(job, cluster, event, random_):
    if event == "actor":
        while not killed(random_.choice(scoring_actors() or [0])):
            assert job.running, job.log()[-3000:]
    elif event == "node":
        cluster.remove_node(random_.choice(sorted(cluster.worker_nodes, key=str)), allow_graceful=False)
        in_the_end(lambda: cluster.add_node(num_cpus=1))
    else:
        job.kill()
        job.start()


def disturb_until_it_ends(job, cluster, events, random_):
    """Returns those of `events` that struck before the end of the running job."""
    struck = []
    for number, event in enumerate(events, start=1):
        job.wait_for_parts(number * job.num_files // (len(events) + 1) + random_.randint(0, 3))
        if not job.running:
            break
        disturb(job, cluster, event, random_)
        struck.append(event)
    job.finish()
    return struck


def add_workers(cluster):
    while len(cluster.worker_nodes) < 2:
        in_the_end(lambda: cluster.add_node(num_cpus=1))


def test_killed_actors_lost_nodes_and_killed_drivers_lose_and_double_nothing(cluster, model, tmp_path):
    texts = write_corpus(tmp_path / "in", 240)
    job = Job(cluster, model, tmp_path / "in", tmp_path / "out")
    job.start()
    job.wait_for("0 of 0 are free in the cluster")  # it waits for nodes, and is not refused
    add_workers(cluster)
    # The node last: until another one has started, what is left of the job may end.
    events = ["driver", "actor", "node"]
    assert disturb_until_it_ends(job, cluster, events, random.Random(0)) == events
    assert_scored(job.records(), texts, model)
    assert job.num_parts() == job.num_files
    first, *later = re.findall(r"(\d+) done before", job.log())
    assert first == "0"
    assert [int(done) > 0 for done in later] == [True]


@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(NUM_SEEDS))
def test_chaos_of_many_seeds(cluster, model, tmp_path, seed):
    texts = write_corpus(tmp_path / "in", 2000)
    add_workers(cluster)
    random_ = random.Random(seed)
    events = random_.choices(["actor", "node", "driver"], k=4)
    job = Job(cluster, model, tmp_path / "in", tmp_path / "out")
    job.start()
    assert disturb_until_it_ends(job, cluster, events, random_)
    assert_scored(job.records(), texts, model)
