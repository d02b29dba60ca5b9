"""The service measured: its overhead, long among short, three times too much, peers, scaling, chaos, and a soak.

    python -m benchmarks.serving overhead mixed overload --size tiny --seconds 20
    python -m benchmarks.serving peers --size demo
    python -m benchmarks.serving scaling chaos --seconds 120
    python -m benchmarks.serving soak --seconds 1200

Everything runs on one machine, clients beside servers, on random weights of the size asked for; every scenario
starts warm. Read the shares rather than the times where the machine has other work: the load is printed.
"""

import argparse
import contextlib
import os
import platform
import random
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import ray
import torch
from ray import serve

from benchmarks.serving_parts.load import Answers, Body, closed_loop, open_loop
from bigbird import BigBirdConfig, BigBirdForTokenClassification, load_predictor
from serving.app import build
from serving.settings import HeadArguments, ServeArguments

TASK = "token-classification"
TOKENIZER = Path("checkpoints/fill-mask/tokenizer.json")
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128},
    "demo": {"hidden_size": 128, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 512},
    "base": {},
}
SHORT_TOKENS, LONG_TOKENS = 100, 4000


class Bench:
    """A cluster with Serve, one checkpoint, and texts of known lengths."""

    def __init__(self, size: str, num_threads: int, seconds: float) -> None:
        self.seconds = seconds
        self.num_threads = num_threads
        torch.set_num_threads(num_threads)
        config = BigBirdConfig(vocab_size=8192, id2label={0: "O", 1: "B-X", 2: "I-X"}, sep_token_id=5, **SIZES[size])
        self.checkpoint = tempfile.mkdtemp(prefix="bigbird-bench-")
        BigBirdForTokenClassification(config).save_pretrained(self.checkpoint)
        (Path(self.checkpoint) / "tokenizer.json").write_bytes(TOKENIZER.read_bytes())
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        # Ray's workers give way to everything else on a machine, and so to the clients beside them.
        system = {"worker_niceness": 0}
        ray.init(
            address="local",
            num_cpus=16,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            _system_config=system,
        )
        serve.start(http_options={"host": "127.0.0.1", "port": port, "request_timeout_s": 300})
        self.address = f"http://127.0.0.1:{port}"
        self.url = f"{self.address}/v1/{TASK}"
        self.predictor = load_predictor(TASK, self.checkpoint, max_tokens_per_batch=8192)
        source = "".join(
            path.read_text(errors="ignore") for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:60]
        )
        self._offsets = self.predictor.tokenizer.encode(source[:400_000], add_special_tokens=False).offsets
        self._source = source

    def text(self, num_tokens: int, chance: random.Random) -> str:
        """Python source of about so many tokens, from anywhere."""
        first = chance.randrange(len(self._offsets) - num_tokens)
        return self._source[self._offsets[first][0] : self._offsets[first + num_tokens - 1][1]]

    def deploy(self, **head: Any) -> None:
        settings = {"num_cpus": self.num_threads, "max_tokens_per_batch": 8192, **head}
        arguments = HeadArguments(checkpoint=self.checkpoint, **settings)
        serve.run(build(ServeArguments(heads={TASK: arguments})), name="bigbird")
        self.post({"inputs": "warm " * 200})

    def post(self, body: Body) -> httpx.Response:
        return httpx.post(self.url, json=body, timeout=120, trust_env=False).raise_for_status()

    def short(self, chance: random.Random) -> tuple[str, Body]:
        return "short", {"inputs": self.text(SHORT_TOKENS, chance)}

    def mixture(self, share_long: float) -> Callable[[random.Random], tuple[str, Body]]:
        def make(chance: random.Random) -> tuple[str, Body]:
            if chance.random() < share_long:
                return "long", {"inputs": self.text(LONG_TOKENS, chance)}
            return self.short(chance)

        return make

    def bodies(self, lengths: list[int]) -> list[Body]:
        chance = random.Random(1)
        return [{"inputs": self.text(length, chance)} for length in lengths]

    def capacity(self, bodies: list[Body], clients: int = 16) -> Answers:
        closed_loop(self.url, bodies, clients=4, seconds=2)
        return closed_loop(self.url, bodies, clients=clients, seconds=self.seconds)


def overhead(bench: Bench) -> None:
    """The service beside the bare predictor, short texts: time of one request, and requests a second."""
    bench.deploy()
    bodies = bench.bodies([SHORT_TOKENS] * 64)
    served = bench.capacity(bodies, clients=1)
    alone = []
    deadline = time.perf_counter() + bench.seconds
    while time.perf_counter() < deadline:
        started = time.perf_counter()
        bench.predictor([bodies[len(alone) % 64]["inputs"]])
        alone.append(time.perf_counter() - started)
    alone.sort()
    p50, p99 = 1000 * alone[len(alone) // 2], 1000 * alone[int(len(alone) * 0.99)]
    rate = len(alone) / bench.seconds
    print(f"  predictor, one at a time   {rate:7.1f} texts/s   p50 {p50:8.1f} ms   p99 {p99:8.1f} ms")
    print(f"  service, one client        {served.line()}")
    print(f"  added by the service       p50 {served.percentile_ms(50) - p50:.1f} ms")
    print(f"  service, 32 clients        {bench.capacity(bodies, clients=32).line()}")


def mixed(bench: Bench) -> None:
    """Short texts with and without 4,000-token ones among them, at half of what the server can do."""
    bench.deploy()
    chance = random.Random(2)
    make = bench.mixture(0.1)
    capacity = bench.capacity([make(chance)[1] for _ in range(64)]).rate()
    rate = 0.5 * capacity
    without = open_loop(bench.url, bench.short, rate=0.9 * rate, seconds=bench.seconds)
    among = open_loop(bench.url, make, rate=rate, seconds=bench.seconds)
    print(f"  capacity of the mixture    {capacity:7.1f} answers/s, a tenth of them long; offered: half")
    print(f"  short alone                {without.line('short')}")
    print(f"  short among long           {among.line('short')}")
    print(f"  long                       {among.line('long')}")


def overload(bench: Bench) -> None:
    """Three times as much as the server can do."""
    bench.deploy(max_queued_requests=64, max_queue_wait_s=2)
    chance = random.Random(3)
    make = bench.mixture(0.1)
    capacity = bench.capacity([make(chance)[1] for _ in range(64)]).rate()
    answers = open_loop(bench.url, make, rate=3 * capacity, seconds=bench.seconds)
    print(f"  capacity                   {capacity:7.1f} answers/s")
    print(f"  at three times that        {answers.line()}")
    lost = len(answers.items) - len(answers.of(status=200)) - len(answers.of(status=429))
    print(f"  goodput / capacity         {answers.rate() / capacity:7.2f}; answered neither 200 nor 429: {lost}")


def peers(bench: Bench) -> None:
    """Mixed lengths: ours, transformers' pipeline behind FastAPI, and behind Ray Serve with @serve.batch."""
    from benchmarks.serving_parts.peers import BatchedPipeline

    chance = random.Random(4)
    bodies = bench.bodies([min(4000, int(chance.lognormvariate(6.0, 1.1)) + 20) for _ in range(48)])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "benchmarks.serving_parts.peers",
        bench.checkpoint,
        str(port),
        str(bench.num_threads),
    ]
    rates = {}
    bench.deploy()
    rates["ours"] = bench.capacity(bodies).rate()
    process = subprocess.Popen(command)
    try:
        url = f"http://127.0.0.1:{port}/"
        wait_for(lambda: answers_at(url, bodies[0]), 300)
        rates["FastAPI, one worker"] = closed_loop(url, bodies, clients=16, seconds=bench.seconds).rate()
    finally:
        process.terminate()
        process.wait()
    peer = BatchedPipeline.bind(bench.checkpoint, bench.num_threads)  # type: ignore[attr-defined]
    serve.run(peer, name="peer", route_prefix="/peer")
    url = f"{bench.address}/peer"
    wait_for(lambda: answers_at(url, bodies[0]), 300)
    rates["@serve.batch, padded"] = closed_loop(url, bodies, clients=16, seconds=bench.seconds).rate()
    serve.delete("peer")
    for name, rate in rates.items():
        print(f"  {name:26} {rate:7.2f} answers/s   ours / this {rates['ours'] / rate if rate else float('inf'):6.1f}")


def scaling(bench: Bench) -> None:
    """From no replica to three and back."""
    bench.deploy(min_replicas=0, max_replicas=3, target_ongoing_requests=2, upscale_delay_s=2, downscale_delay_s=5)
    wait_for(lambda: replicas() == 0, 120)
    started = time.perf_counter()
    bench.post({"inputs": "wake"})
    print(f"  first answer from none     {time.perf_counter() - started:7.1f} s")
    seen: dict[int, float] = {}
    loaded = time.perf_counter()
    load = threading.Thread(
        target=closed_loop, args=(bench.url, bench.bodies([1000] * 16)), kwargs={"clients": 12, "seconds": 60}
    )
    load.start()
    while load.is_alive():
        seen.setdefault(replicas(), time.perf_counter() - loaded)
        time.sleep(0.5)
    idle = time.perf_counter()
    print("  under load                 " + ", ".join(f"{n} replicas after {s:.0f} s" for n, s in sorted(seen.items())))
    wait_for(lambda: replicas() == 0, 300)
    print(f"  back to none               {time.perf_counter() - idle:7.1f} s after the load")


def chaos(bench: Bench) -> None:
    """Replicas killed every few seconds under load; then the gateway's process too."""
    bench.deploy(min_replicas=2, max_replicas=2)
    for target in (TASK, "gateway"):
        stop = threading.Event()
        kills = []

        def kill(target: str = target, stop: threading.Event = stop, kills: list[float] = kills) -> None:
            chance = random.Random(5)
            while not stop.wait(8):
                pids = replica_pids(target)
                if pids:
                    os.kill(chance.choice(pids), signal.SIGKILL)
                    kills.append(time.perf_counter())

        killer = threading.Thread(target=kill)
        killer.start()
        answers = open_loop(bench.url, bench.short, rate=4, seconds=bench.seconds)
        stop.set()
        killer.join()
        failed = len(answers.items) - len(answers.of(status=200))
        slowest = max((item.took_s for item in answers.of(status=200)), default=float("nan"))
        print(f"  {target:26} {len(kills)} kills, {len(answers.items)} requests, {failed} failed {answers.statuses}, "
              f"slowest {slowest:.1f} s")  # fmt: skip


def soak(bench: Bench) -> None:
    """Traffic with a third of the clients leaving early; memory of the replica and of the gateway over time."""
    bench.deploy()
    stop = threading.Event()

    def leave() -> None:
        chance = random.Random(6)
        while not stop.is_set():
            try:
                httpx.post(bench.url, json=bench.mixture(0.2)(chance)[1], timeout=chance.uniform(0.001, 0.2))
            except httpx.HTTPError:
                continue

    leavers = [threading.Thread(target=leave) for _ in range(2)]
    for thread in leavers:
        thread.start()
    readings = []
    for _ in range(5):
        answers = open_loop(bench.url, bench.mixture(0.1), rate=4, seconds=bench.seconds / 5)
        memory = {name: sum(map(resident_mib, replica_pids(name))) for name in (TASK, "gateway")}
        readings.append(memory)
        print(f"  {answers.line()}   MiB {memory}")
    stop.set()
    for thread in leavers:
        thread.join()
    time.sleep(2)
    heads = httpx.get(f"{bench.address}/info", timeout=30).json()["heads"]
    growth = {name: readings[-1][name] - readings[0][name] for name in readings[0]}
    print(f"  growth MiB {growth}; tokens still queued {heads[0]['details']['queued_tokens']}")


def replicas() -> int:
    states = serve.status().applications["bigbird"].deployments[TASK].replica_states
    return sum(count for state, count in states.items() if str(getattr(state, "value", state)) == "RUNNING")


def replica_pids(deployment: str) -> list[int]:
    """Processes of a deployment's living replicas, among the descendants of this process."""
    found, parents = [], {}
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # "pid (name) state parent ...": a name may hold spaces and brackets, so count from its end
            parents[int(directory.name)] = int((directory / "stat").read_text().rpartition(")")[2].split()[1])
            title = (directory / "cmdline").read_bytes().decode(errors="replace").strip("\0 ")
            if title.partition(".")[0] == f"ray::ServeReplica:bigbird:{deployment}":
                found.append(int(directory.name))
    return [pid for pid in found if _descends(pid, parents)]


def _descends(pid: int, parents: dict[int, int]) -> bool:
    while pid in parents:
        pid = parents[pid]
        if pid == os.getpid():
            return True
    return False


def resident_mib(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20


def answers_at(url: str, body: Body) -> bool:
    try:
        return httpx.post(url, json=body, timeout=120, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def wait_for(condition: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not so after {timeout_s:.0f} s")
        time.sleep(0.5)


SCENARIOS = {one.__name__: one for one in (overhead, mixed, overload, peers, scaling, chaos, soak)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", default=["overhead", "mixed", "overload"], metavar="SCENARIO",
                        help=f"of {', '.join(SCENARIOS)}")  # fmt: skip
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seconds", type=float, default=20, help="of each measurement (default: %(default)s)")
    options = parser.parse_args()
    unknown = [name for name in options.scenarios if name not in SCENARIOS]
    if unknown:
        parser.error(f"no scenario {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    print(f"{date.today()}  {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, "
          f"ray {ray.__version__}, size {options.size}, {options.threads} threads")  # fmt: skip
    bench = Bench(options.size, options.threads, options.seconds)
    try:
        for name in options.scenarios:
            print(f"{name}: {(SCENARIOS[name].__doc__ or '').strip()}", flush=True)
            SCENARIOS[name](bench)
            sys.stdout.flush()
    finally:
        serve.shutdown()  # type: ignore[no-untyped-call]
        ray.shutdown()


if __name__ == "__main__":
    main()
