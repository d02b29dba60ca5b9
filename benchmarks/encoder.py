"""The encoder, base size: ours, both transformers, dense attention and the floor, in one alternating run.

    python -m benchmarks.encoder [--layers 12] [--threads 2] [--rounds 5] [--dtype float32] [--lengths 4096 ...]

All layers cost the same, so fewer layers give the same ratios in less time. The floor is the arithmetic of the
linear layers and of block-sparse attention at the best matrix rate this machine showed in the same run.
"""

import argparse
import sys
from pathlib import Path

import torch

from benchmarks.measure import Peer, encoder_flops, in_turns, machine, matrix_rate, old_transformers
from bigbird import BigBirdConfig, BigBirdModel, prepare_for_inference
from bigbird.packing import pack

PEER = Path(__file__).parent / "transformers_peer.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 512, 704, 1024, 2048, 4096])
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    config = BigBirdConfig(num_hidden_layers=options.layers)
    loaded = BigBirdModel(config)
    ours = prepare_for_inference(loaded, options.dtype)
    dense = prepare_for_inference(_as_dense(loaded), options.dtype)
    dtypes = ["float32"] if options.dtype == "float32" else ["bfloat16", "autocast"]
    pythons = {"transformers 5": sys.executable, "transformers 4.37": old_transformers()}
    peers = {
        f"{name} {dtype}": Peer(python, PEER, str(options.layers), str(options.threads), dtype)
        for name, python in pythons.items()
        for dtype in dtypes
        # transformers 5 does not run under autocast: its sparse attention scatters one type into another.
        if python is not None and (name, dtype) != ("transformers 5", "autocast")
    }
    print(f"{machine(options.threads)}; {options.layers} layers, {options.dtype}, one row, median of {options.rounds}")
    for length in options.lengths:
        packed = pack([[7] * length])

        def run(model: BigBirdModel, rows=packed) -> None:
            with torch.inference_mode():
                model.encode(rows)

        rate = matrix_rate(config, getattr(torch, options.dtype))
        runs = {"ours": lambda: run(ours), "ours, dense": lambda: run(dense)}
        for name, peer in peers.items():
            runs[name] = lambda peer=peer, length=length: peer({"rows": [length]})
        seconds = in_turns(runs, options.rounds)
        rate = max(rate, matrix_rate(config, getattr(torch, options.dtype)))
        floor = encoder_flops(config, [length]) / rate
        share = floor / seconds["ours"]
        print(f"\n{length} tokens; floor {floor:.3f} s at {rate / 1e9:.0f} GFLOP/s; ours reaches {share:.2f} of it")
        for name, took in seconds.items():
            print(
                f"  {name:28s} {took:8.3f} s {1e6 * took / length:9.1f} us a token {took / seconds['ours']:7.2f} x ours"
            )
    for peer in peers.values():
        peer.process.kill()


def _as_dense(model: BigBirdModel) -> BigBirdModel:
    full = BigBirdModel(model.config.replace(attention_type="original_full"))
    full.load_state_dict(model.state_dict())
    return full


if __name__ == "__main__":
    main()
