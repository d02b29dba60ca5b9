"""Scenarios in which nothing breaks: what the service costs, what long texts cost short ones, too much, and peers."""

import random
import subprocess
import sys
import time

import httpx
from ray import serve

from benchmarks.serving_parts.bench import SHORT_TOKENS, TASK, Bench, Row, wait_for
from benchmarks.serving_parts.load import Answers, Body, closed_loop, open_loop
from benchmarks.serving_parts.processes import processor_ms, proxy_pids, replica_pids
from serving.preflight import free_port


def overhead(bench: Bench) -> list[Row]:
    """The service beside the bare predictor, short texts: time of one request, and requests a second."""
    bench.deploy()
    bodies = bench.bodies([SHORT_TOKENS] * 64)
    texts = [body["inputs"] for body in bodies]
    parts = {"proxy": proxy_pids(), "gateway": replica_pids("gateway"), "replica": replica_pids(TASK)}
    closed_loop(bench.url, bodies, clients=4, seconds=2)
    before = {name: processor_ms(pids) for name, pids in parts.items()}
    one = closed_loop(bench.url, bodies, clients=1, seconds=bench.seconds)
    num_answers = len(one.items)
    used = {name: (processor_ms(pids) - before[name]) / num_answers for name, pids in parts.items()}
    own_before = time.process_time()
    for text in texts:
        bench.predictor([text])
    model_ms = 1000 * (time.process_time() - own_before) / len(texts)
    alone: list[float] = []
    deadline = time.perf_counter() + bench.seconds
    while time.perf_counter() < deadline:
        started = time.perf_counter()
        bench.predictor([texts[len(alone) % 64]])
        alone.append(1000 * (time.perf_counter() - started))
    rate = 1000 * len(alone) / sum(alone)
    alone.sort()
    p50, p99 = alone[len(alone) // 2], alone[int(len(alone) * 0.99)]
    many = bench.capacity(bodies, clients=32)
    num_batches, started = 0, time.perf_counter()
    while (took := time.perf_counter() - started) < bench.seconds / 2:
        bench.predictor(texts)
        num_batches += 1
    in_batches = 64 * num_batches / took
    return [
        ("predictor, one text at a time", f"{rate:.1f} texts/s, p50 {p50:.1f} ms, p99 {p99:.1f} ms"),
        ("service, one client", one.line()),
        ("added by the service", f"p50 {one.percentile_ms(50) - p50:.1f} ms, p99 {one.percentile_ms(99) - p99:.1f} ms"),
        (
            "processor time of a request",
            f"{sum(used.values()) - model_ms:.1f} ms beside the model's {model_ms:.1f} ("
            + ", ".join(f"{name} {ms:.1f}" for name, ms in used.items())
            + ")",
        ),
        ("predictor, 64 texts at a time", f"{in_batches:.1f} texts/s"),
        ("service, 32 clients", f"{many.line()}; {many.rate() / in_batches:.2f} of the predictor's"),
    ]


def mixed(bench: Bench) -> list[Row]:
    """Short texts with and without 4,000-token ones among them, at half of what the server can do."""
    bench.deploy()
    chance = random.Random(2)
    make = bench.mixture(0.1)
    capacity = bench.capacity([make(chance)[1] for _ in range(64)]).rate()
    without = open_loop(bench.url, bench.short, rate=0.9 * 0.5 * capacity, seconds=bench.seconds)
    among = open_loop(bench.url, make, rate=0.5 * capacity, seconds=bench.seconds)
    return [
        ("capacity, a tenth of them long", f"{capacity:.1f} answers/s; offered below: half"),
        ("short ones alone", without.line("short")),
        ("short ones among long ones", among.line("short")),
        ("long ones", among.line("long")),
    ]


def overload(bench: Bench) -> list[Row]:
    """Three times as much as the server can do, a tenth of it long; at most 2 s of queue are accepted."""
    bench.deploy(max_queued_requests=64, max_queue_wait_s=2)
    chance = random.Random(3)
    make = bench.mixture(0.1)
    capacity = bench.capacity([make(chance)[1] for _ in range(64)]).rate()
    answers = open_loop(bench.url, make, rate=3 * capacity, seconds=bench.seconds)
    lost = len(answers.items) - len(answers.of(status=200)) - len(answers.of(status=429))
    # Those accepted near the end are answered after it.
    lasted_s = max((item.sent_s + item.took_s for item in answers.of(status=200)), default=bench.seconds)
    goodput = len(answers.of(status=200)) / max(lasted_s, bench.seconds)
    return [
        ("capacity", f"{capacity:.1f} answers/s"),
        ("at three times that", answers.line()),
        ("goodput / capacity", f"{goodput / capacity:.2f}"),
        ("answered neither 200 nor 429", str(lost)),
    ]


def peers(bench: Bench) -> list[Row]:
    """Mixed lengths: ours, transformers' pipeline behind FastAPI, and behind Ray Serve with @serve.batch."""
    from benchmarks.serving_parts.peers import BatchedPipeline

    chance = random.Random(4)
    bodies = bench.bodies([min(4000, int(chance.lognormvariate(6.0, 1.1)) + 20) for _ in range(48)])
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.serving_parts.peers"]
    command += [bench.checkpoint, str(port), str(bench.num_threads)]
    bench.deploy()
    measured = {"ours": bench.capacity(bodies)}
    serve.delete("bigbird")
    process = subprocess.Popen(command)
    try:
        measured["pipeline behind FastAPI, one worker"] = _peer(f"http://127.0.0.1:{port}/", bodies, bench)
    finally:
        process.terminate()
        process.wait()
    peer = BatchedPipeline.bind(bench.checkpoint, bench.num_threads)  # type: ignore[attr-defined]
    serve.run(peer, name="peer", route_prefix="/peer")
    measured["pipeline in @serve.batch, padded"] = _peer(f"{bench.address}/peer", bodies, bench)
    serve.delete("peer")
    ours = measured["ours"].rate()
    mean = sum(len(bench.predictor.tokenizer.encode(body["inputs"])) for body in bodies) / len(bodies)
    rows = [("texts", f"{min(map(_length, bodies))} to {max(map(_length, bodies))} characters, {mean:.0f} tokens mean")]
    for name, answers in measured.items():
        share = "" if name == "ours" else f"; ours / this {ours / answers.rate() if answers.rate() else 0:.1f}"
        rows.append((name, answers.line() + share))
    return rows


def _length(body: Body) -> int:
    return len(body["inputs"])


def _peer(url: str, bodies: list[Body], bench: Bench) -> Answers:
    wait_for(lambda: _answers_at(url, bodies[0]), 300)
    return closed_loop(url, bodies, clients=16, seconds=bench.seconds)


def _answers_at(url: str, body: Body) -> bool:
    try:
        return httpx.post(url, json=body, timeout=120, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
