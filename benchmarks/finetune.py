"""A training step, base size: ours, transformers 5 and 4.37.2 in one alternating run, with dropout and without.

    python -m benchmarks.finetune [--layers 12] [--threads 2] [--rounds 3] [--rows 1] [--length 4096]
        [--dropout 0.1 0.0] [--dtype float32] [--clock wall]

Dropout is the documented default of 0.1, of hidden states and of attention weights; transformers applies the latter in
full attention only. bfloat16 is by autocast, under which transformers 5 does not run. All layers cost the same, so
fewer layers give nearly the same ratios in less time and memory; the word embeddings and their update weigh more then.
`--clock processor --threads 1` counts the process's own time, for a machine that does other work as well. The floor is
three times the arithmetic of the encoder's forward pass (a backward pass is two of them) at the best matrix rate this
machine showed in the same run.
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
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--dropout", type=float, nargs="+", default=[0.1, 0.0])
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--clock", choices=["wall", "processor"], default="wall")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    os.environ["PYTHONPATH"] = str(SCRIPT.parent.parent)
    pythons = {"ours": sys.executable, "transformers 5": sys.executable, "transformers 4.37": old_transformers()}
    steps = {
        f"{name}, dropout {dropout}": Peer(
            python, SCRIPT, name.split()[0], str(options.layers), str(options.threads), str(dropout), options.dtype
        )
        for dropout in options.dropout
        for name, python in pythons.items()
        if python is not None and (name, options.dtype) != ("transformers 5", "bfloat16")
    }
    request = {"rows": options.rows, "length": options.length, "want": options.clock}
    seconds = in_turns({name: partial(step, request) for name, step in steps.items()}, options.rounds)
    config = BigBirdConfig(num_hidden_layers=options.layers)
    rows = [options.length] * options.rows
    floor = 3 * encoder_flops(config, rows) / matrix_rate(config, getattr(torch, options.dtype))
    print(f"{machine(options.threads)}; {options.layers} layers, {options.dtype}, {options.clock} clock, ", end="")
    print(f"{options.rows} rows of {options.length} tokens, median of {options.rounds}")
    print(f"{'':32}{'s a step':>10}{'tokens/s':>10}{'ours is':>10}{'peak GiB':>10}")
    for name, took in seconds.items():
        peak = steps[name]({**request, "want": "memory"}) / 2**30
        speedup = took / seconds[f"ours, {name.split(', ')[1]}"]
        print(f"{name:32}{took:10.2f}{sum(rows) / took:10.0f}{speedup:9.2f}x{peak:10.2f}")
    print(f"{'floor':32}{floor:10.2f}")
    for step in steps.values():
        step.process.kill()


if __name__ == "__main__":
    main()
