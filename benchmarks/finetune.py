"""A training step, base size, one row of 4,096 tokens: ours, transformers 5 and 4.37.2 in one alternating run.

    python -m benchmarks.finetune [--layers 12] [--threads 2] [--rounds 3] [--length 4096] [--clock wall]

All layers cost the same, so fewer layers give nearly the same ratios in less time and memory; the word embeddings and
their update weigh more then. `--clock processor --threads 1` counts the process's own time, for a machine that does
other work as well. The floor is three times the arithmetic of the encoder's forward pass (a backward pass is two of
them) at the best matrix rate this machine showed in the same run.
"""

import argparse
import os
import sys
from functools import partial
from pathlib import Path

import torch

from benchmarks.measure import Peer, encoder_flops, in_turns, machine, matrix_rate, old_transformers
from bigbird import BigBirdConfig

SCRIPT = Path(__file__).parent / "finetune_peer.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--clock", choices=["wall", "processor"], default="wall")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    os.environ["PYTHONPATH"] = str(SCRIPT.parent.parent)
    pythons = {"ours": sys.executable, "transformers 5": sys.executable, "transformers 4.37": old_transformers()}
    arguments = (str(options.layers), str(options.threads))
    steps = {
        name: Peer(python, SCRIPT, name.split()[0], *arguments)
        for name, python in pythons.items()
        if python is not None
    }
    request = {"length": options.length, "want": options.clock}
    seconds = in_turns({name: partial(step, request) for name, step in steps.items()}, options.rounds)
    config = BigBirdConfig(num_hidden_layers=options.layers)
    floor = 3 * encoder_flops(config, [options.length]) / matrix_rate(config)
    print(f"{machine(options.threads)}; {options.layers} layers, float32, {options.clock} clock, one row")
    print(f"{'':20}{'s a step':>10}{'tokens/s':>10}{'ours is':>10}{'peak GiB':>10}")
    for name, took in seconds.items():
        peak = steps[name]({**request, "want": "memory"}) / 2**30
        speedup = took / seconds["ours"]
        print(f"{name:20}{took:10.2f}{options.length / took:10.0f}{speedup:9.2f}x{peak:10.2f}")
    print(f"{'floor':20}{floor:10.2f}")
    for step in steps.values():
        step.process.kill()


if __name__ == "__main__":
    main()
