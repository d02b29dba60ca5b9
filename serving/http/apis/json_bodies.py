"""JSON without holding up the event loop: large bodies are parsed one at a time, large answers encoded in a thread.

It knows JSON, not what it means.
"""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute

_LARGE_BODY_BYTES = 256 * 1024
# Python's encoder does not let go of the interpreter within one call: it gets lists by so many items.
_ITEMS_AT_ONCE = 512
_MIN_COMPRESSED_BYTES = 16 * 1024
# Values and characters of an answer that takes less time to encode than a thread to wake.
_SMALL_ANSWER = 4096


class OneLargeBodyAtATime(APIRoute):
    """A route whose large bodies are parsed one after another, so that small requests get their turn in between."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        handler = super().get_route_handler()
        gate = asyncio.Semaphore(1)

        class GatedRequest(Request):
            async def json(self) -> Any:
                body = await self.body()
                if len(body) < _LARGE_BODY_BYTES:
                    return json.loads(body)
                async with gate:
                    await asyncio.sleep(0)
                    return _parsed(body)

        async def handle(request: Request) -> Any:
            return await handler(GatedRequest(request.scope, request.receive))

        return handle


def _parsed(body: bytes) -> Any:
    """A large body. Nothing in it refers to itself, and the search for what does, at every few hundred of a million
    lists, would take nine tenths of the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        return json.loads(body)
    finally:
        if collects:
            gc.enable()


async def json_answer(
    request: Request, make: Callable[[], Any], headers: Mapping[str, str], *, source: Any = None
) -> Response:
    """The answer that `make` returns, compressed where the client takes gzip.

    Made and encoded in a thread; at once where `source`, of which it is made, is known and small.
    """
    accepts_gzip = "gzip" in request.headers.get("accept-encoding", "")
    if source is not None and _room_left(source, _SMALL_ANSWER) > 0:
        body, encoding = _made(make, accepts_gzip)
    else:
        body, encoding = await asyncio.to_thread(_made, make, accepts_gzip)
    return Response(body, headers={**headers, **encoding, "Vary": "Accept-Encoding"}, media_type="application/json")


def _room_left(value: Any, room: int) -> int:
    """`room` less the values and characters in `value`, counted until there is none."""
    room -= len(value) if isinstance(value, str) else 1
    if isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            if room <= 0:
                break
            room = _room_left(item, room)
    return room


def _made(make: Callable[[], Any], accepts_gzip: bool) -> tuple[bytes, dict[str, str]]:
    body = "".join(_pieces(make())).encode()
    if accepts_gzip and len(body) >= _MIN_COMPRESSED_BYTES:
        return gzip.compress(body, compresslevel=1), {"Content-Encoding": "gzip"}
    return body, {}


def _pieces(value: Any) -> Iterator[str]:
    """`value` as JSON text; a long list, and a list of lists, piece by piece."""
    if isinstance(value, list) and (len(value) > _ITEMS_AT_ONCE or (value and isinstance(value[0], list))):
        yield "["
        for start in range(0, len(value), _ITEMS_AT_ONCE):
            part = value[start : start + _ITEMS_AT_ONCE]
            if start:
                yield ","
            if any(isinstance(item, list) for item in part):
                for index, item in enumerate(part):
                    if index:
                        yield ","
                    yield from _pieces(item)
            else:
                yield _dumps(part)[1:-1]
        yield "]"
    elif isinstance(value, dict):
        for index, (name, item) in enumerate(value.items()):
            yield "{" if index == 0 else ","
            yield f"{_dumps(name)}:"
            yield from _pieces(item)
        yield "}" if value else "{}"
    else:
        yield _dumps(value)


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
