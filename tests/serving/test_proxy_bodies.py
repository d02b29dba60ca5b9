"""serving.http.edge.proxy and the bodies of requests: which are read, given up, or refused."""

import asyncio
import json
from typing import Any

from error_bodies import error_in
from proxy_calls import ServesProxy, ask, body, start

from serving.http.edge.proxy import Proxy
from serving.http.edge.request_bodies import RequestBodies


def slow(*, bodies: RequestBodies, chunks: list[bytes], headers: tuple[tuple[bytes, bytes], ...] = ()) -> Any:
    """A request of these chunks and no end; the proxy's answer."""
    proxy = ServesProxy([start(), body(b"good")])
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if not chunks:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": chunks.pop(0), "more_body": True}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def main() -> None:
        ours = Proxy(proxy, report=lambda *_: None, bodies=bodies)
        scope = {"type": "http", "method": "POST", "path": "/v1/fill-mask", "headers": list(headers)}
        await asyncio.wait_for(ours(scope, receive, send), 20)

    asyncio.run(main())
    assert proxy.bodies == [], "what is not whole takes nobody's place"
    return sent[0]["status"], error_in(json.loads(sent[1]["body"]))["type"]


def test_a_body_that_does_not_arrive_is_given_up():
    assert slow(bodies=RequestBodies(body_s=0.01), chunks=[b"{"]) == (408, "request_timeout")


def test_a_body_beyond_any_limit_is_refused_before_it_is_read():
    length = ((b"content-length", b"999999999999"),)
    assert slow(bodies=RequestBodies(), chunks=[], headers=length) == (413, "payload_too_large")
    assert slow(bodies=RequestBodies(), chunks=[b"x" * 2**20] * 40) == (413, "payload_too_large")


def test_bodies_together_beyond_the_proxy_s_memory_are_refused():
    bodies = RequestBodies(max_bytes=1000)
    assert slow(bodies=bodies, chunks=[b"x" * 600, b"x" * 600]) == (429, "overloaded")
    assert slow(bodies=bodies, chunks=[b"x" * 1200]) == (429, "overloaded"), "and the first one's place is free again"


def test_of_too_many_bodies_that_are_not_whole_the_oldest_is_given_up_and_a_whole_one_passes():
    proxy = ServesProxy([start(), body(b"good")])
    answers: dict[int, int] = {}

    async def main() -> None:
        ours = Proxy(proxy, report=lambda *_: None, bodies=RequestBodies(max_incomplete=3))

        async def client(number: int, whole: bool) -> None:
            async def receive() -> dict[str, Any]:
                if not whole:
                    await asyncio.Event().wait()
                return {"type": "http.request", "body": b"{}", "more_body": False}

            async def send(message: dict[str, Any]) -> None:
                answers.setdefault(number, message.get("status"))

            scope = {"type": "http", "method": "POST", "path": "/v1/fill-mask", "headers": []}
            await ours(scope, receive, send)

        slow_ones = [asyncio.create_task(client(number, whole=False)) for number in range(3)]
        await asyncio.sleep(0)
        await client(3, whole=True)
        await asyncio.wait_for(slow_ones[0], 20)
        for task in slow_ones:
            task.cancel()
        await asyncio.gather(*slow_ones, return_exceptions=True)

    asyncio.run(main())
    assert answers == {0: 408, 3: 200}


def test_only_methods_with_a_body_have_one_read():
    proxy = ServesProxy([start(), body(b"good")])
    assert ask(proxy, "/health", method="GET", chunks=(b"a", b"b"))[::2] == (200, b"good")
    assert proxy.bodies == [b""]
