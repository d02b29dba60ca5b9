"""Scenarios in which things change under load: replicas come and go, processes are killed, clients leave."""

import asyncio
import os
import random
import signal
import statistics
import threading
import time
from dataclasses import replace

import httpx

from benchmarks.serving_parts.bench import GENERATION, TASK, Bench, Row, replicas, wait_for
from benchmarks.serving_parts.load import ERROR_EVENT, Answers, Body, closed_loop, open_loop
from benchmarks.serving_parts.processes import replica_pids, resident_mib

KILL_PERIOD_S = 6.0


def scaling(bench: Bench) -> list[Row]:
    """From no replica to three under load, and back to none."""
    bench.deploy(min_replicas=0, max_replicas=3, target_ongoing_requests=2, upscale_delay_s=2, downscale_delay_s=5)
    wait_for(lambda: replicas() == 0, 120)
    started = time.perf_counter()
    bench.post({"inputs": "wake"})
    woken_s = time.perf_counter() - started
    seen: dict[int, float] = {}
    loaded = time.perf_counter()
    load = threading.Thread(
        target=closed_loop,
        args=(bench.url, bench.bodies([1000] * 16)),
        kwargs={"clients": 12, "seconds": bench.seconds},
    )
    load.start()
    while load.is_alive():
        seen.setdefault(replicas(), time.perf_counter() - loaded)
        time.sleep(0.2)
    idle = time.perf_counter()
    wait_for(lambda: replicas() == 0, 300)
    return [
        ("first answer from no replica", f"{woken_s:.1f} s"),
        ("under load", ", ".join(f"{count} after {after_s:.0f} s" for count, after_s in sorted(seen.items()))),
        ("back to none", f"{time.perf_counter() - idle:.0f} s after the load (downscale_delay_s=5)"),
    ]


def chaos(bench: Bench) -> list[Row]:
    """In turn a scoring replica, a generating one and the gateway killed every 6 s, under scoring and streaming load.

    Two replicas a head, one gateway. Recovered: the first good answer to a request sent after the kill.
    """
    bench.deploy(generation=True, min_replicas=2, max_replicas=2)
    stop = threading.Event()
    kills: list[tuple[str, float]] = []
    started = time.perf_counter()

    def kill() -> None:
        chance = random.Random(5)
        targets = (TASK, GENERATION, "gateway")
        while not stop.wait(KILL_PERIOD_S):
            target = targets[len(kills) % 3]
            pids = replica_pids(target)
            if pids:
                kills.append((target, time.perf_counter() - started))
                os.kill(chance.choice(pids), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    found: dict[str, Answers] = {}
    streams = threading.Thread(target=lambda: found.update(streams=_streams(bench, rate=1.0)))
    streams.start()
    scored = open_loop(bench.url, bench.short, rate=5, seconds=bench.seconds)
    streams.join()
    stop.set()
    killer.join()
    failed = len(scored.items) - len(scored.of(status=200))
    followed = found["streams"]
    whole, told = len(followed.of(status=200)), len(followed.of(status=ERROR_EVENT))
    refused = len([item for item in followed.items if item.status > ERROR_EVENT and item.status != 200])
    silent = len(followed.of(status=0))
    counts = ", ".join(f"{sum(one == target for one, _ in kills)} {target}" for target in (TASK, GENERATION, "gateway"))
    rows = [
        ("killed", counts),
        ("scoring requests failed", f"{failed} of {len(scored.items)} {scored.statuses()}"),
        ("slowest scoring request", f"{max((item.took_s for item in scored.items), default=0):.1f} s"),
        ("streams", f"{whole} whole, {told} ended with an error event, {refused} refused, {silent} just stopped"),
    ]
    for target, answers in ((TASK, scored), (GENERATION, followed), ("gateway", scored)):
        waits = _recoveries(answers, [at for one, at in kills if one == target])
        if waits:
            text = f"median {statistics.median(waits):.1f} s, worst {max(waits):.1f} s"
            rows.append((f"recovered after {target} was killed", text))
    return rows


def _recoveries(answers: Answers, kills: list[float]) -> list[float]:
    """Seconds from each kill to the end of the first good answer to a request sent after it."""
    good = answers.of(status=200)
    ends = [[item.sent_s + item.took_s - at for item in good if item.sent_s >= at] for at in kills]
    return [min(waits) for waits in ends if waits]


def _streams(bench: Bench, rate: float) -> Answers:
    def make(chance: random.Random) -> tuple[str, Body]:
        prompt = bench.text(50, chance)
        return "stream", {"model": GENERATION, "prompt": prompt, "max_tokens": 64, "min_tokens": 64, "stream": True}

    return open_loop(f"{bench.address}/v1/completions", make, rate=rate, seconds=bench.seconds)


def soak(bench: Bench) -> list[Row]:
    """Scoring and streams with clients that leave early, for a long time: memory, and what is left behind."""
    bench.deploy(generation=True)
    stop = threading.Event()
    num_left = 0

    async def leave(number: int) -> None:
        nonlocal num_left
        chance = random.Random(number)
        async with httpx.AsyncClient(trust_env=False) as client:
            while not stop.is_set():
                if number % 2:
                    url, body = bench.url, bench.mixture(0.2)(chance)[1]
                else:
                    url = f"{bench.address}/v1/completions"
                    body = {"model": GENERATION, "prompt": "import os", "max_tokens": 500, "n": 4, "stream": True}
                try:
                    async with asyncio.timeout(chance.uniform(0.001, 0.3)):
                        await client.post(url, json=body, timeout=60)
                except (TimeoutError, httpx.HTTPError):
                    num_left += 1

    async def leave_all() -> None:
        await asyncio.gather(*(leave(number) for number in range(4)))

    leavers = threading.Thread(target=lambda: asyncio.run(leave_all()))
    leavers.start()
    deployments = (TASK, GENERATION, "gateway")
    readings = []
    total = Answers(bench.seconds)
    for turn in range(6):
        answers = open_loop(bench.url, bench.mixture(0.1), rate=3, seconds=bench.seconds / 6, seed=turn)
        total.items += [replace(item, sent_s=item.sent_s + turn * bench.seconds / 6) for item in answers.items]
        readings.append([sum(map(resident_mib, replica_pids(name))) for name in deployments])
        print(
            f"  after {(turn + 1) * bench.seconds / 6:.0f} s: MiB {dict(zip(deployments, readings[-1], strict=True))}"
        )
    stop.set()
    leavers.join()
    time.sleep(3)
    details = bench.details()
    left = {name: details[GENERATION][name] for name in ("num_running", "num_waiting", "num_used_cache_tokens")}
    left["queued_tokens"] = details[TASK]["queued_tokens"]
    rows = [
        ("clients that stayed", total.line()),
        ("clients that left early", str(num_left)),
        ("left behind", ", ".join(f"{name} {count}" for name, count in left.items())),
    ]
    for index, name in enumerate(deployments):
        # The first sixth still warms allocators and caches.
        values = " ".join(str(reading[index]) for reading in readings)
        rows.append(
            (f"memory of {name}", f"{values} MiB; from second to last {readings[-1][index] - readings[1][index]:+d}")
        )
    return rows
