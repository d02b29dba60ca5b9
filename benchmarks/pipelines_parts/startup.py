"""Start-up: until the first batch and after the last row, beside a bare `ray.init()` and `import torch`."""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.measure import machine
from pipelines.scoring.ledger.parts import read_parts
from pipelines.scoring.storage import locate

MODEL = Path(__file__).parents[2] / "checkpoints" / "token-classification"
BARE = """
import time
began = time.time()
import ray
ray.init(include_dashboard=False, log_to_driver=False)
ready = time.time()
import torch
print(ready - began, time.time() - ready)
"""


def startup(options: argparse.Namespace, folder: Path) -> None:
    """Twelve short rows, each kind of start in turn, so that what else runs on the machine meets both."""
    corpus = folder / "in.parquet"
    pq.write_table(pa.table({"text": [f"def f{number}(x): return x" for number in range(12)]}), corpus)
    print(machine(os.cpu_count() or 1))
    measured = []
    for number in range(options.runs):
        bare = subprocess.run([sys.executable, "-c", BARE], capture_output=True, text=True, check=True)
        init_s, torch_s = map(float, bare.stdout.split())
        output = folder / f"out-{number}"
        job = ["pipelines.score", "--task", "token-classification", "--model", str(MODEL), "--input", str(corpus)]
        began = time.time()
        subprocess.run([sys.executable, "-m", *job, "--output", str(output)], capture_output=True, check=True)
        ended = time.time()
        summaries = [footer.summary for footer in read_parts(locate(str(output))).values()]
        before_s = min(summary["started"] for summary in summaries) - began
        after_s = ended - max(summary["finished"] for summary in summaries)
        measured.append((init_s, torch_s, before_s, before_s - init_s - torch_s, after_s))
        print(
            "run {}: ray.init {:.1f} s, import torch {:.1f} s, first batch after {:.1f} s, ".format(
                number, *measured[-1]
            )
            + f"{measured[-1][3]:.1f} s beyond; {after_s:.1f} s after the last row; load {os.getloadavg()[0]:.1f}"
        )
    init_s, torch_s, before_s, beyond_s, after_s = map(statistics.median, zip(*measured, strict=True))
    print(
        f"median of {options.runs}: ray.init {init_s:.1f} s, import torch {torch_s:.1f} s; before the first batch "
        f"{before_s:.1f} s, {beyond_s:.1f} s beyond those two; {after_s:.1f} s after the last row"
    )
