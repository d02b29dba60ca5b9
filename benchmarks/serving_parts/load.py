"""Clients for the serving benchmark: open loop (requests come when they come) and closed loop (one after another).

Open loop is what shows overload: a slow server does not slow its clients down. Knows URLs and bodies, not servers.
"""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

Body = dict[str, Any]

# The "status" of a stream that ended with an event that says what went wrong.
ERROR_EVENT = 1


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One request: its kind, when it was sent (seconds from the start), how long it took, and its status.

    Status 0: no answer at all (connection refused, reset or out of time), or a stream that just stopped.
    """

    kind: str
    sent_s: float
    took_s: float
    status: int


@dataclass
class Answers:
    """All answers of one run."""

    seconds: float
    items: list[Answer] = field(default_factory=list)

    def of(self, kind: str | None = None, status: int | None = None) -> list[Answer]:
        return [
            item
            for item in self.items
            if (kind is None or item.kind == kind) and (status is None or item.status == status)
        ]

    def rate(self, kind: str | None = None) -> float:
        """Answers with status 200 a second."""
        return len(self.of(kind, 200)) / self.seconds

    def percentile_ms(self, percent: float, kind: str | None = None) -> float:
        """Of the time that answers with status 200 took; nan without any."""
        times = sorted(item.took_s for item in self.of(kind, 200))
        if not times:
            return float("nan")
        return 1000 * times[min(len(times) - 1, int(len(times) * percent / 100))]

    def statuses(self, kind: str | None = None) -> dict[int, int]:
        return dict(Counter(item.status for item in self.of(kind)))

    def line(self, kind: str | None = None) -> str:
        p50, p99 = self.percentile_ms(50, kind), self.percentile_ms(99, kind)
        times = f"p50 {p50:8.1f} ms   p99 {p99:8.1f} ms"
        return f"{self.rate(kind):7.1f} answers/s   {times}   statuses {self.statuses(kind)}"


async def _ask(client: aiohttp.ClientSession, url: str, kind: str, body: Body, started: float, into: Answers) -> None:
    sent = time.perf_counter()
    try:
        async with client.post(url, data=json.dumps(body)) as response:
            await response.read()
            status = response.status
    except (aiohttp.ClientError, TimeoutError):
        status = 0
    into.items.append(Answer(kind=kind, sent_s=sent - started, took_s=time.perf_counter() - sent, status=status))


async def _follow(
    client: aiohttp.ClientSession, url: str, kind: str, body: Body, started: float, into: Answers
) -> None:
    """The same for a stream of server-sent events, whose end tells how it went."""
    sent = time.perf_counter()
    status, last = 0, ""
    try:
        async with client.post(url, data=json.dumps(body)) as response:
            status = response.status
            async for line in response.content:
                last = line.decode().strip().removeprefix("data: ") or last
    except (aiohttp.ClientError, TimeoutError):
        status = 0
    if status == 200 and last != "[DONE]":
        status = ERROR_EVENT if last.startswith('{"error"') else 0
    into.items.append(Answer(kind=kind, sent_s=sent - started, took_s=time.perf_counter() - sent, status=status))


def _client(timeout_s: float) -> aiohttp.ClientSession:
    """Not httpx, which takes milliseconds a request from the processors that clients and server share."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(timeout_s),
        headers={"Content-Type": "application/json"},
    )


def open_loop(
    url: str,
    make: Callable[[random.Random], tuple[str, Body]],
    *,
    rate: float,
    seconds: float,
    seed: int = 0,
    timeout_s: float = 120,
) -> Answers:
    """Requests at random times (Poisson), `rate` a second; waits for every answer. make: a kind and a body.

    A body that asks for a stream is answered when the stream ends.
    """

    async def main() -> Answers:
        chance = random.Random(seed)
        answers = Answers(seconds)
        async with _client(timeout_s) as client, asyncio.TaskGroup() as group:
            started = time.perf_counter()
            due = 0.0
            while (due := due + chance.expovariate(rate)) < seconds:
                await asyncio.sleep(max(0.0, started + due - time.perf_counter()))
                kind, body = make(chance)
                ask = _follow if body.get("stream") else _ask
                group.create_task(ask(client, url, kind, body, started, answers))
        return answers

    return asyncio.run(main())


def closed_loop(url: str, bodies: Sequence[Body], *, clients: int, seconds: float, timeout_s: float = 120) -> Answers:
    """`clients` that each ask again as soon as they are answered: what the server can do at most."""

    async def main() -> Answers:
        answers = Answers(seconds)
        async with _client(timeout_s) as client:
            started = time.perf_counter()

            async def one(number: int) -> None:
                turn = number
                while time.perf_counter() - started < seconds:
                    await _ask(client, url, "closed", bodies[turn % len(bodies)], started, answers)
                    turn += clients

            await asyncio.gather(*(one(number) for number in range(clients)))
            answers.seconds = time.perf_counter() - started
        return answers

    return asyncio.run(main())
