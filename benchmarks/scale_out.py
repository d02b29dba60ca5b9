"""One scoring job on 1, 2 and 4 nodes: what the job itself costs, with a predictor that sleeps instead of computing.

    python -m benchmarks.scale_out            # some minutes; needs little of the machine's cores

The nodes are raylets of their own on this machine (`ray.cluster_utils`), two actors each. A sleeping predictor needs no
core, so four nodes on two cores are four nodes as far as scheduling, reading and writing go, and the arithmetic is left
out on purpose. Printed: seconds from the first row read to the last file written, the efficiency against one node, and
the overhead a unit (a read task, an actor call, a file): the actors' time that was not sleep, divided by the units.
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray.cluster_utils import Cluster

from benchmarks.idle import idle
from benchmarks.measure import machine
from pipelines.scoring.actors.pool import ScoreOptions
from pipelines.scoring.job import run_job
from pipelines.scoring.ledger.parts import read_parts
from pipelines.scoring.plan import Job
from pipelines.scoring.storage import locate

ACTORS_A_NODE = 2
SLEEP_S = 0.04


def run(num_nodes: int, corpus: Path, output: Path) -> tuple[float, float, float, int]:
    """Seconds of the whole job, seconds of work, seconds of overhead a unit, and the number of units."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(num_nodes):
            cluster.add_node(num_cpus=ACTORS_A_NODE, object_store_memory=80 * 2**20)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
        began = time.monotonic()
        options = ScoreOptions(num_actors=num_nodes * ACTORS_A_NODE, num_cpus_per_actor=1)
        job = Job(
            task="masked-lm-scoring",
            model="sleeps",
            inputs=[str(corpus)],
            output=str(output),
            options=options,
            unit_bytes=20_000,
        )
        run_job(job, **idle(SLEEP_S), out=sys.stderr)
        seconds = time.monotonic() - began
    finally:
        ray.shutdown()
        cluster.shutdown()
    summaries = [footer.summary for footer in read_parts(locate(str(output))).values()]
    work = max(s["finished"] for s in summaries) - min(s["started"] for s in summaries)
    documents = pq.read_metadata(corpus).num_rows
    overhead = (work * num_nodes * ACTORS_A_NODE - documents * SLEEP_S) / len(summaries)
    return seconds, work, overhead, len(summaries)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--documents", type=int, default=2000)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 4])
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bb-", dir="/tmp"))
    try:
        corpus = folder / "corpus.parquet"
        texts = [f"{number} " * 400 for number in range(arguments.documents)]
        table = pa.table({"text": texts})
        pq.write_table(table, corpus, row_group_size=10)
        print(machine(1))
        print(f"{arguments.documents} documents of {SLEEP_S * 1000:.0f} ms, {ACTORS_A_NODE} actors a node")
        print("nodes  units  job s  work s  efficiency  overhead a unit")
        first = None
        for num_nodes in arguments.nodes:
            seconds, work, overhead, units = run(num_nodes, corpus, folder / f"scored-{num_nodes}")
            first = first or (num_nodes, work)
            efficiency = first[0] * first[1] / (num_nodes * work)
            print(
                f"{num_nodes:5}  {units:5}  {seconds:5.1f}  {work:6.1f}  {efficiency:10.2f}  {overhead * 1000:12.0f} ms"
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
