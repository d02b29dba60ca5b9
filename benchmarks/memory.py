"""Peak memory of the encoder, base size: ours, the stated model of it, and transformers, for the same rows.

    python -m benchmarks.memory [--layers 2] [--threads 2] [--rows 1 16]

Rows of 4,096 tokens, one and sixteen together, float32. Each figure is what a process of its own came to need beyond
what it needed for a first short row. Layers free what they held, so a few show what all of them need. transformers
takes 1.5 GiB a row.
Also our tokens/s at several budgets of a micro-batch: what the default was chosen by.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.measure import Peer, machine
from bigbird import BigBirdConfig, BigBirdModel, prepare_for_inference
from bigbird.packing import pack
from bigbird.predictors.batches import activation_bytes

PEER = Path(__file__).parent / "transformers_peer.py"
BUDGETS = (4_096, 16_384, 65_536)


def peak_growth(model: BigBirdModel, rows: list[int]) -> int:
    """Bytes by which this process's peak grows when it encodes `rows`, after a short row."""
    with torch.inference_mode():
        model.encode(pack([[7] * 64]))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        model.encode(pack([[7] * length for length in rows]))
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def prepared(layers: int) -> BigBirdModel:
    return prepare_for_inference(BigBirdModel(BigBirdConfig(num_hidden_layers=layers)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16], help="of 4,096 tokens, read together")
    parser.add_argument("--ours", type=int, nargs="+", help=argparse.SUPPRESS)  # what the process of one figure does
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.ours:
        print(peak_growth(prepared(options.layers), options.ours))
        return
    print(f"{machine(options.threads)}; {options.layers} layers, float32")
    stated = activation_bytes(BigBirdConfig(), "cpu", torch.float32)
    for rows in ([4096] * count for count in options.rows):
        command = [sys.executable, "-m", "benchmarks.memory", "--layers", str(options.layers), "--threads"]
        command += [str(options.threads), "--ours", *map(str, rows)]
        ours = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        with Peer(sys.executable, PEER, str(options.layers), str(options.threads), "float32") as peer:
            theirs = peer({"rows": rows, "batch": len(rows), "memory": True})
        print(
            f"{sum(rows):6d} tokens: ours {ours / 2**20:7.0f} MiB, stated {stated * sum(rows) / 2**20:7.0f} MiB, "
            f"transformers {theirs / 2**20:7.0f} MiB, {theirs / ours:.1f} x ours"
        )
    model = prepared(options.layers)
    for budget in BUDGETS:
        packed = pack([[7] * 1024] * (budget // 1024))
        with torch.inference_mode():
            model.encode(packed)
            began = time.perf_counter()
            for _ in range(BUDGETS[-1] // budget):
                model.encode(packed)
        print(f"micro-batches of {budget:6d} tokens: {BUDGETS[-1] / (time.perf_counter() - began):8.0f} tokens/s")


if __name__ == "__main__":
    main()
