"""`make submit`: a scoring job sent to a Ray cluster over HTTP, stopped half way and sent again.

Starts a cluster of two nodes on this machine with token authentication, uploads this repository as the job's working
directory, follows the job's log, and leaves nothing running. On a real cluster the `ray job` commands are the same;
cluster/README.md has them.
"""

import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq

from pipelines import corpus
from tests.support.local_cluster import LocalCluster, local_cluster

ROOT = Path(__file__).parent.parent
OUTPUT = ROOT / "out" / "submit"
NUM_DOCUMENTS = 120
STOP_AFTER_FILES = 2


def main() -> int:
    OUTPUT.mkdir(parents=True, exist_ok=True)
    documents, scored = OUTPUT / "topics.parquet", OUTPUT / f"scored-{int(time.time())}"
    corpus.main(["--python-docs", str(OUTPUT / "python-docs.parquet")])
    table = pq.read_table(OUTPUT / "python-docs.parquet")
    shortest_first = sorted(range(table.num_rows), key=lambda row: len(table["text"][row].as_py()))
    useful = [row for row in shortest_first if table["text"][row].as_py().strip()][:NUM_DOCUMENTS]
    pq.write_table(table.take(useful), documents, row_group_size=4)

    entrypoint = ["python", "-m", "pipelines.score", "--task", "masked-lm-scoring"]
    entrypoint += ["--model", str(ROOT / "checkpoints" / "fill-mask"), "--input", str(documents)]
    entrypoint += ["--output", str(scored), "--id-column", "id", "--target-file-size", "16K"]

    say("a head without cores for work, and a worker with two; the dashboard asks for the token")
    with local_cluster([0, 2], namespaces=False) as cluster:
        print(f"dashboard at {cluster.dashboard_url}, token in {cluster.directory / 'token'}")
        ray(cluster, "job", "submit", "--submission-id", "first", "--working-dir", ".", "--no-wait", "--", *entrypoint)
        wait_for_files(scored, STOP_AFTER_FILES)
        say("stopped half way: what is done stays done")
        ray(cluster, "job", "stop", "first")
        say("the same command again")
        ray(cluster, "job", "submit", "--submission-id", "second", "--working-dir", ".", "--", *entrypoint)
    rows = pq.read_table(scored, columns=["id"]).num_rows
    say(f"{rows} of {len(useful)} documents scored, each once -> {scored.relative_to(ROOT)}")
    return 0 if rows == len(useful) else 1


def ray(cluster: LocalCluster, *arguments: str) -> None:
    print("$ ray", " ".join(arguments).replace(f"{ROOT}/", ""), flush=True)
    subprocess.run(["ray", *arguments], cwd=ROOT, env=cluster.environment, check=True)


def wait_for_files(scored: Path, count: int, timeout_s: float = 180.0) -> None:
    deadline = time.monotonic() + timeout_s
    while len(list(scored.glob("part-*.parquet"))) < count:
        if time.monotonic() > deadline:
            raise SystemExit(f"no {count} files in {scored} after {timeout_s:.0f} s")
        time.sleep(0.2)


def say(text: str) -> None:
    print(f"\n== {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
