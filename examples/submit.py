"""`make submit`: a scoring job sent to a Ray cluster over HTTP, stopped half way and sent again.

Starts a cluster of two nodes on this machine, submits this repository as the job's working directory, follows its log,
and leaves nothing running. On a real cluster the `ray job` commands do the same; cluster/README.md has them.
"""

import logging
import shutil
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
from ray.cluster_utils import Cluster
from ray.job_submission import JobStatus, JobSubmissionClient

from pipelines import corpus

ROOT = Path(__file__).parent.parent
OUTPUT = ROOT / "out" / "submit"
NUM_DOCUMENTS = 120


def main() -> int:
    logging.getLogger("ray").setLevel(logging.WARNING)  # it names every file that it does not upload
    shutil.rmtree(OUTPUT, ignore_errors=True)
    OUTPUT.mkdir(parents=True)
    documents, scored = OUTPUT / "documents.parquet", OUTPUT / "scored"
    corpus.main(["--python-docs", str(OUTPUT / "python-docs.parquet")])
    shortest = sorted(pq.read_table(OUTPUT / "python-docs.parquet").to_pylist(), key=lambda row: len(row["text"]))
    rows = [row for row in shortest if row["text"].strip()][:NUM_DOCUMENTS]
    pq.write_table(pq.read_table(OUTPUT / "python-docs.parquet").from_pylist(rows), documents)
    command = f"{sys.executable} -m pipelines.score --task masked-lm-scoring --id-column id --target-file-size 16K"
    command += f" --model {ROOT}/checkpoints/fill-mask --input {documents} --output {scored}"

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": True})
    try:
        cluster.add_node(num_cpus=2)
        client = JobSubmissionClient(f"http://{cluster.head_node.webui_url}")
        say(f"the cluster's dashboard: http://{cluster.head_node.webui_url}")
        job = submit(client, command)
        while len(list(scored.glob("*.parquet"))) < 2 and not client.get_job_status(job).is_terminal():
            time.sleep(0.2)
        say("stopped half way: what is done stays done")
        client.stop_job(job)
        say("the same command again")
        job = submit(client, command)
        while not client.get_job_status(job).is_terminal():
            time.sleep(0.5)
        print(client.get_job_logs(job))
        succeeded = client.get_job_status(job) == JobStatus.SUCCEEDED
    finally:
        cluster.shutdown()
    num_rows = pq.read_table(scored, columns=["id"]).num_rows
    say(f"{num_rows} of {len(rows)} documents scored, each once -> {scored.relative_to(ROOT)}")
    return 0 if succeeded and num_rows == len(rows) else 1


def submit(client: JobSubmissionClient, command: str) -> str:
    shown = command.replace(sys.executable, "python").replace(f"{ROOT}/", "")
    print("$ ray job submit --working-dir . --", shown, flush=True)
    return client.submit_job(entrypoint=command, runtime_env={"working_dir": str(ROOT)})


def say(text: str) -> None:
    print(f"\n== {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
