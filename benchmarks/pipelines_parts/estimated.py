"""What `--estimate` says of a job, beside what the job then took, on two corpora of unlike lengths.

The documents of the Python corpus as they are, and cut into paragraphs: thousands of short rows.
"""

import argparse
import json
import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.measure import machine
from benchmarks.pipelines_parts.checkpoint import make_checkpoint

TASK = "token-classification"


def estimated(options: argparse.Namespace, folder: Path) -> None:
    """Estimate, then run, for each corpus; prints tokens and hours of both and their ratios."""
    print(machine(2))
    model = make_checkpoint(folder / "model", options.layers)
    corpus = folder / "python.parquet"
    command = [sys.executable, "-m", "pipelines.corpus", "--python-docs", str(corpus)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    texts = pq.read_table(corpus, columns=["text"])["text"].to_pylist()
    texts = random.Random(0).sample(texts, min(options.documents, len(texts)))
    paragraphs = [part for text in texts for part in text.split("\n\n") if part.strip()]
    for name, rows in (("documents", texts), ("paragraphs", paragraphs)):
        source = folder / f"{name}.parquet"
        pq.write_table(pa.table({"text": rows}), source, row_group_size=256)
        output = folder / f"{name}-scored"
        job = [sys.executable, "-m", "pipelines.score", "--task", TASK, "--model", str(model)]
        job += ["--input", str(source), "--output", str(output), "--num-cpus-per-actor", "1"]
        for step in (["--estimate"], []):
            done = subprocess.run([*job, *step], capture_output=True, text=True)
            if done.returncode not in (0, 3):
                sys.exit(done.stderr[-3000:])
        costs = json.loads(Path(f"{output}.report.json").read_text())["costs"]
        predicted, actual = costs["predicted"], costs["actual"]
        print(
            f"{name}: {len(rows):,} rows; tokens {predicted['tokens']:,} estimated, {actual['tokens']:,} actual, "
            f"{actual['tokens'] / predicted['tokens']:.2f} of it; seconds {predicted['hours'] * 3600:,.0f} estimated, "
            f"{actual['hours'] * 3600:,.0f} actual, {actual['hours'] / predicted['hours']:.2f} of it"
        )
