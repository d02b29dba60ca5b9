"""The linear layers by themselves: what pages of 2 MiB and the fused gelu are worth, one kernel beside another.

    python -m benchmarks.products [--threads 1] [--rounds 15] [--dtype float32 bfloat16] [--rows 1 8 32 512]

Six layers of base size, more bytes than caches keep: milliseconds of processor time (with several threads, of all of
them) for all products of a pass, median of the rounds, the contenders in turn. Then 768 to 3,072 with tanh-gelu: fused,
torch's own after the product, and as x * sigmoid(...), which is the same function.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from unittest import mock

import torch
from torch.nn import functional as F

from benchmarks.measure import machine
from bigbird.linear import packed
from bigbird.linear.memory import keep_freed_memory, on_large_pages

SHAPES = [(768, 2304), (768, 768), (768, 3072), (3072, 768)]  # in and out
LAYERS = 6


def milliseconds(contenders: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    took: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            began = time.process_time()
            contender()
            took[name].append(time.process_time() - began)
    return {name: statistics.median(times) * 1e3 for name, times in took.items()}


def layers(dtype: torch.dtype, is_packed: bool, large: bool) -> list[tuple[int, Callable[..., torch.Tensor]]]:
    """The products of all layers, each with the width it takes."""
    made: list[tuple[int, Callable[..., torch.Tensor]]] = []
    for width_in, width_out in SHAPES * LAYERS:
        linear = torch.nn.Linear(width_in, width_out, dtype=dtype).requires_grad_(False)
        if is_packed:
            with mock.patch.object(packed, "on_large_pages", on_large_pages if large else lambda weight: weight):
                made.append((width_in, packed.PackedLinear(linear, num_rows=16)))
        else:
            if large:
                on_large_pages(linear.weight)
            made.append((width_in, linear))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32, 512])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    print(machine(options.threads))
    for name in options.dtype:
        for kind, took in {**by_pages(getattr(torch, name), options), **by_gelu(getattr(torch, name), options)}.items():
            print(
                f"{name:9s}{kind}:  " + "  ".join(f"{contender} {ms:.2f}" for contender, ms in took.items()), flush=True
            )


def by_pages(dtype: torch.dtype, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    kinds = {
        f"{'packed' if is_packed else 'plain'} on {'2 MiB' if large else '4 KiB'}": layers(dtype, is_packed, large)
        for is_packed in (False, True)
        for large in (False, True)
    }

    def run(kind: str, states: Mapping[int, torch.Tensor]) -> None:
        for width, product in kinds[kind]:
            product(states[width])

    found = {}
    for rows in options.rows:
        states = {width: torch.randn(rows, width).to(dtype) for width in (768, 3072)}
        contenders = {kind: partial(run, kind, states) for kind in kinds}
        found[f"{rows:5d} rows, all layers"] = milliseconds(contenders, options.rounds)
    return found


def by_gelu(dtype: torch.dtype, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    linear = torch.nn.Linear(768, 3072, dtype=dtype).requires_grad_(False)
    plain = packed.PackedLinear(linear, num_rows=4096)
    contenders: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "alone": plain,
        "tanh-gelu fused": packed.PackedLinear(linear, num_rows=4096, activation="gelu_new"),
        "torch's after it": lambda states: F.gelu(plain(states), approximate="tanh"),
        "by sigmoid": lambda states: by_sigmoid(plain(states)),
    }
    found = {}
    for rows in (256, 512, 1024):
        states = torch.randn(rows, 768).to(dtype)
        runs = {name: partial(contender, states) for name, contender in contenders.items()}
        found[f"{rows:5d} rows, 768 to 3,072"] = milliseconds(runs, options.rounds)
    return found


def by_sigmoid(states: torch.Tensor) -> torch.Tensor:
    scale = 2 * (2 / torch.pi) ** 0.5
    return states.mul_((states * states).mul_(0.044715 * scale).add_(scale).mul_(states).sigmoid_())


if __name__ == "__main__":
    main()
