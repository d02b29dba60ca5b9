"""What the benchmarks share: timing in turns, the machine's matrix rate, the model's arithmetic, peers in a process."""

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from bigbird.config import BigBirdConfig
from bigbird.linear.packed import PackedLinear, can_pack


def in_turns(runs: Mapping[str, Callable[[], float | None]], rounds: int) -> dict[str, float]:
    """Median seconds of each run, taken in turns after one warm-up. A run that returns a number timed itself."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            own = run()
            took = time.perf_counter() - began if own is None else own
            if turn:
                seconds[name].append(took)
    return {name: statistics.median(times) for name, times in seconds.items()}


def matrix_rate(config: BigBirdConfig, dtype: torch.dtype = torch.float32, device: str = "cpu") -> float:
    """Best FLOP/s measured on the model's own shapes, 4,096 rows, with whatever product is fastest here."""
    best = 0.0
    for width_in, width_out in (
        (config.hidden_size, config.intermediate_size),
        (config.hidden_size, config.hidden_size),
    ):
        linear = torch.nn.Linear(width_in, width_out, device=device, dtype=dtype).requires_grad_(False)
        products: list[torch.nn.Module] = [linear]
        if device == "cpu" and can_pack(dtype):
            products.append(PackedLinear(linear, num_rows=4096))
        rows = torch.randn(4096, width_in, device=device, dtype=dtype)
        for product in products:
            product(rows)
            for _ in range(5):
                began = time.perf_counter()
                product(rows)
                if device == "cuda":
                    torch.cuda.synchronize()
                best = max(best, 2 * 4096 * width_in * width_out / (time.perf_counter() - began))
    return best


def encoder_flops(config: BigBirdConfig, lengths: Sequence[int]) -> float:
    """Multiplications and additions of the encoder's products and attention, as the plan reads keys."""
    hidden, layers = config.hidden_size, config.num_hidden_layers
    linear = 2 * (4 * hidden * hidden + 2 * hidden * config.intermediate_size) * layers
    total = float(linear * sum(lengths))
    for length in lengths:
        pairs = float(length * length)
        if config.is_sparse(length):
            pairs = 5.0 * config.block_size * length + 2 * config.block_size * length
        total += 4 * pairs * hidden * layers
    return total


def machine(threads: int) -> str:
    """One line that says where the figures come from."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        processor = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), processor)
    level = torch.backends.cpu.get_cpu_capability()
    return f"{processor}, {level}, {threads} threads, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}"


class Peer:
    """A peer in a process and environment of its own: sends it a line of JSON, gets seconds back."""

    def __init__(self, python: str, script: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [python, str(script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )

    def __call__(self, request: object) -> float:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the peer ended with status {self.process.wait()}")
        return float(json.loads(answer))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()


def old_transformers() -> str | None:
    """The Python of an environment with transformers 4.37.2: TRANSFORMERS_437_PYTHON, or the Makefile's."""
    default = Path(__file__).parent.parent / ".venv-transformers437" / "bin" / "python"
    python = os.environ.get("TRANSFORMERS_437_PYTHON", str(default))
    return python if Path(python).exists() else None
