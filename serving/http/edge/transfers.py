"""Contents of files on their way through a proxy: passed on as they come, never held whole, never sent again."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable

from starlette.types import ASGIApp, Message, Receive, Scope

from serving.errors import ServingError
from serving.http.edge.request_bodies import BODY_S, MIN_BYTES_A_SECOND, UPLOAD_PATH

_CONTENT_PATH = re.compile(rf"{UPLOAD_PATH}/[^/]+/content")

# Serve's proxy takes what comes without bound and a gateway fetches it by calls: so much a second it writes down.
_MAX_BYTES_A_SECOND = 64 * 2**20
# Serve's own time limit is for requests that compute.
_NO_LIMIT = (b"x-request-timeout-seconds", b"-1")


def is_transfer(method: str, path: str) -> bool:
    """Whether a request brings or fetches the content of a file."""
    if method == "POST":
        return path == UPLOAD_PATH
    return method == "GET" and _CONTENT_PATH.fullmatch(path) is not None


async def transfer(app: ASGIApp, scope: Scope, receive: Receive, take: Callable[[Message], Awaitable[None]]) -> bool:
    """Hands a request to Serve's proxy and its answer to `take`; whether the client is still there.

    Raises ServingError for a client that sends too slowly.
    """
    loop = asyncio.get_running_loop()
    started, num_bytes = loop.time(), 0
    whole = left = slow = False

    async def passed_on() -> Message:
        nonlocal num_bytes, whole, left, slow
        limit = None if whole else started + BODY_S + num_bytes / MIN_BYTES_A_SECOND
        try:
            async with asyncio.timeout_at(limit):
                message = await receive()
        except TimeoutError:
            slow = True
            return {"type": "http.disconnect"}
        if message["type"] == "http.disconnect":
            left = True
            return message
        num_bytes += len(message.get("body", b""))
        whole = not message.get("more_body", False)
        early_s = num_bytes / _MAX_BYTES_A_SECOND - (loop.time() - started)
        if early_s > 0:
            await asyncio.sleep(early_s)
        return message

    await app({**scope, "headers": [*scope["headers"], _NO_LIMIT]}, passed_on, take)
    if slow:
        raise ServingError("request_timeout", "the body did not arrive in time")
    return not left
