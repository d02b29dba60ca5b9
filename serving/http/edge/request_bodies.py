"""Reads request bodies whole, before anything behind the proxy hears of them: with a deadline, and bounded in all.

A request that is not whole takes no place in a queue: only a socket and what has arrived of it. It knows ASGI.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.datastructures import Headers
from starlette.types import Receive

from serving.errors import ServingError
from serving.settings import MAX_BODY_BYTES

# A body has so much time, and more as it arrives.
BODY_S = 20.0
MIN_BYTES_A_SECOND = 64 * 1024

# Of all requests of a proxy together, from the first byte until they are answered.
_MAX_BYTES = 256 * 2**20
# Bodies that are not whole yet; beyond it the one that has taken longest is given up.
_MAX_INCOMPLETE = 2048

# Serve's gateway replica would fetch a body from the proxy with a call of its own. A small one goes with the request
# instead, under this name in the ASGI scope, to whoever has said by this header that it looks there.
BODY_IN_SCOPE = "bigbird.body"
LOOKS_IN_SCOPE = "x-bigbird-body-in-scope"
MAX_BYTES_IN_SCOPE = 64 * 1024


# A file that is sent here is not read whole first, and need not be JSON.
UPLOAD_PATH = "/v1/files"


class ClientLeft(Exception):
    """The client closed its connection before its request was whole."""


class RequestBodies:
    """The bodies of all requests of a proxy."""

    def __init__(
        self, *, body_s: float = BODY_S, max_bytes: int = _MAX_BYTES, max_incomplete: int = _MAX_INCOMPLETE
    ) -> None:
        self._body_s = body_s
        self._max_bytes = max_bytes
        self._max_incomplete = max_incomplete
        self._incomplete: dict[object, asyncio.Timeout] = {}
        self._num_bytes = 0

    @contextmanager
    def held(self) -> Iterator[HeldBody]:
        """The place of one body, for as long as its request lasts."""
        body = HeldBody()
        try:
            yield body
        finally:
            self._num_bytes -= len(body.content)

    async def read(self, body: HeldBody, headers: Headers, receive: Receive) -> None:
        """Reads all of it into `body`.

        Raises ServingError where it is too large, too slow or one too many, and ClientLeft.
        """
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > MAX_BODY_BYTES:
            raise ServingError("payload_too_large", f"the body has {length[:20]} bytes, the limit is {MAX_BODY_BYTES}")
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            async with asyncio.timeout(self._body_s) as limit:
                self._incomplete[body] = limit
                if len(self._incomplete) > self._max_incomplete:
                    next(iter(self._incomplete.values())).reschedule(loop.time())
                while not body.whole:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientLeft
                    self._take(body, message.get("body", b""))
                    body.whole = not message.get("more_body", False)
                    limit.reschedule(started + self._body_s + len(body.content) / MIN_BYTES_A_SECOND)
        except TimeoutError:
            raise ServingError("request_timeout", "the body did not arrive in time") from None
        finally:
            self._incomplete.pop(body, None)

    def _take(self, body: HeldBody, part: bytes) -> None:
        if len(body.content) + len(part) > MAX_BODY_BYTES:
            raise ServingError("payload_too_large", f"the body has more than {MAX_BODY_BYTES} bytes")
        if self._num_bytes + len(part) > self._max_bytes:
            raise ServingError("overloaded", "the bodies of other requests fill the proxy's memory", retry_after_s=1)
        body.content += part
        self._num_bytes += len(part)


class HeldBody:
    """What has arrived of one body."""

    def __init__(self) -> None:
        self.content = bytearray()
        self.whole = False
