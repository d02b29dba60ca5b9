"""The scenario of /v1/batches."""

import json
import os
import tempfile
import time

import httpx

from benchmarks.serving_parts.bench import TASK, Bench, Row
from benchmarks.serving_parts.load import closed_loop
from serving.batches.arguments import BatchArguments

NUM_REQUESTS = 10_000
TOKENS = 30


def batch(bench: Bench) -> list[Row]:
    """Short requests as one batch, from its creation to its end, beside the same requests from eight clients."""
    with tempfile.TemporaryDirectory() as storage:
        bench.deploy(batches=BatchArguments(storage=storage, max_actors=os.cpu_count() or 1))
        bodies = bench.bodies([TOKENS] * NUM_REQUESTS)
        closed_loop(bench.url, bodies, clients=8, seconds=2)
        live = closed_loop(bench.url, bodies, clients=8, seconds=bench.seconds)
        with httpx.Client(base_url=f"{bench.address}/v1", timeout=120, trust_env=False) as client:
            place = f"/v1/{TASK}"
            lines = [
                json.dumps({"custom_id": str(number), "method": "POST", "url": place, "body": body})
                for number, body in enumerate(bodies)
            ]
            content = {"file": ("requests.jsonl", "\n".join(lines).encode())}
            file = client.post("/files", files=content, data={"purpose": "batch"}).raise_for_status().json()
            asked = {"input_file_id": file["id"], "endpoint": place, "completion_window": "24h"}
            started = time.perf_counter()
            made = client.post("/batches", json=asked).raise_for_status().json()
            while made["status"] not in ("completed", "failed"):
                time.sleep(0.5)
                made = client.get(f"/batches/{made['id']}").raise_for_status().json()
            took = time.perf_counter() - started
    counts = made["request_counts"]
    assert counts["completed"] == NUM_REQUESTS, made
    rate = NUM_REQUESTS / took
    return [
        ("eight clients", live.line()),
        (
            f"a batch of {NUM_REQUESTS:,}",
            f"{rate:.1f} answers/s, {took:.0f} s; {rate / live.rate():.2f} of the clients'",
        ),
    ]
