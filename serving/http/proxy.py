"""In front of Serve's HTTP proxy: what the gateway cannot do for itself, because it may be what died.

A request whose gateway went away before it answered is sent again; a stream that breaks ends with an error event;
what the proxy says in plain text (time limit, full queue, nothing deployed) gets the one error body; and while a head
is too busy for anybody, it is said here: a refusal must not cost what an answer costs. It knows ASGI, this
application's paths and the error table, not Ray.

Serve calls `middlewares` where a proxy starts, if `PROXY_CALLBACK` stands in the proxy's environment.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.errors import BUSY_HEADER, ServingError
from serving.http.edge import RequestReport, request_id

logger = logging.getLogger("ray.serve.bigbird")

PROXY_CALLBACK = {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serving.http.proxy:middlewares"}

# Other applications behind the same proxy keep their own ways.
_OURS = re.compile(r"/(v1/.*|health|ready|info|docs|openapi\.json)?")

# A request that kills whoever reads it must not go through every replica there is. With the pauses between them these
# take three seconds: a lost node is known by then, and no longer chosen.
_MAX_SENDINGS = 6

# Above the gateway's usual limit of a body; what is longer is sent once only.
_MAX_REMEMBERED_BYTES = 32 * 2**20

_KINDS = {404: "not_found", 408: "proxy_timeout", 429: "overloaded", 503: "head_unavailable"}


def middlewares() -> list[Middleware]:
    """What Serve puts around its proxy."""
    from serving.http.metrics import GatewayMetrics  # of Ray, which is where a proxy runs

    return [Middleware(Resend, report=GatewayMetrics().request)]


class Resend:
    """Wraps the proxy. `report` is told of what is refused here, as the gateway's `Edge` tells of the rest.

    Every request of this application may be sent twice: none changes anything on the server, and an answer that has
    begun is never repeated.
    """

    def __init__(self, app: ASGIApp, *, report: RequestReport) -> None:
        self._app = app
        self._report = report
        self._refusals = Refusals()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _OURS.fullmatch(scope["path"]):
            await self._app(scope, receive, send)
            return
        headers = MutableHeaders(raw=list(scope["headers"]))
        headers["x-request-id"] = request_id(headers)
        scope = {**scope, "headers": headers.raw}
        body = _Body(receive)
        place = (scope["path"], headers.get("origin", ""))
        answer = _Answer(send, headers["x-request-id"], partial(self._refusals.remember, place))
        if refusal := self._refusals.of(place):
            started = time.monotonic()
            await body.skip()
            await answer.refuse(refusal.head, refusal.body)
            self._report(refusal.task, 429, time.monotonic() - started, "overloaded")
            return
        for attempt in range(_MAX_SENDINGS):
            # The proxy returns without a word when the gateway's replica is lost, and when the client has left.
            await self._app(dict(scope), body.receive, answer.take)
            last = attempt == _MAX_SENDINGS - 1
            if answer.begun or body.client_left or not body.repeatable or last:
                break
            logger.warning("the gateway lost a request to %s, sending %d", scope["path"][:200], attempt + 1)
            # Also gives the proxy's reader of the last sending the time to end.
            await asyncio.sleep(0.1 * 2**attempt)
            body.rewind()
        if not body.client_left:
            await answer.end()


@dataclass(frozen=True)
class Refusal:
    """What a head said, head and body of the answer, and until when it holds for everybody."""

    task: str
    until: float
    head: Message
    body: Message


class Refusals:
    """What heads too busy for anybody last said: at which path, and to pages of which origin."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], Refusal] = {}

    def remember(self, place: tuple[str, str], busy: str, head: Message, body: Message) -> None:
        """busy: the value of BUSY_HEADER."""
        task, seconds = busy.split()
        now = time.monotonic()
        self._last = {place: refusal for place, refusal in self._last.items() if refusal.until > now}
        self._last[place] = Refusal(task, now + float(seconds), head, body)

    def of(self, place: tuple[str, str]) -> Refusal | None:
        refusal = self._last.get(place)
        return refusal if refusal is not None and refusal.until > time.monotonic() else None


class _Body:
    """What the client sends, remembered so that it can be read once more."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._seen: list[Message] = []
        self._next = 0
        self._num_bytes = 0
        self.client_left = False

    @property
    def repeatable(self) -> bool:
        return self._num_bytes <= _MAX_REMEMBERED_BYTES

    async def receive(self) -> Message:
        if self._next < len(self._seen):
            message = self._seen[self._next]
        else:
            message = await self._receive()
            self._num_bytes += len(message.get("body", b""))
            if self.repeatable:
                self._seen.append(message)
            else:
                self._seen.clear()
        self._next += 1
        self.client_left = self.client_left or message["type"] == "http.disconnect"
        return message

    def rewind(self) -> None:
        self._next = 0

    async def skip(self) -> None:
        """Reads all of it, so that the connection can be used again."""
        while (await self._receive()).get("more_body", False):
            pass


class _Answer:
    """What goes back to the client. Its head is held until a body follows: so long, nothing has begun."""

    def __init__(self, send: Send, request_id: str, remember: Callable[[str, Message, Message], None]) -> None:
        self._send = send
        self._remember = remember
        self._request_id = request_id
        self._head: Message | None = None
        self._replaced: ServingError | None = None
        self._is_stream = False
        self._complete = False
        self.begun = False

    async def take(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = Headers(raw=message["headers"])
            media_type = headers.get("content-type", "").partition(";")[0]
            self._is_stream = media_type == "text/event-stream"
            self._head = message
            if media_type == "text/plain" and message["status"] in _KINDS:
                self._replaced = _in_one_body(message["status"], headers)
            return
        more = message.get("more_body", False)
        if self._replaced is not None:
            if not more:
                await self._send_error(self._replaced)
            return
        if self._head is not None:
            head, self._head, self.begun = self._head, None, True
            if busy := Headers(raw=head["headers"]).get(BUSY_HEADER):
                head = {**head, "headers": [pair for pair in head["headers"] if pair[0] != BUSY_HEADER.encode()]}
                if not more:
                    self._remember(busy, head, message)
            await self._send(head)
        self._complete = not more
        await self._send(message)

    async def refuse(self, head: Message, message: Message) -> None:
        """Says to this client what another one was told."""
        own = (b"x-request-id", self._request_id.encode())
        headers = [own if name == own[0] else (name, value) for name, value in head["headers"]]
        self.begun = self._complete = True
        await self._send({**head, "headers": headers})
        await self._send(message)

    async def end(self) -> None:
        """Says what went wrong where the application ended without saying anything, or in the middle."""
        gone = ServingError("head_unavailable", "the gateway went away", retry_after_s=1)
        if not self.begun:
            await self._send_error(gone)
        elif self._is_stream and not self._complete:
            event = b"data: " + json.dumps(gone.body()).encode() + b"\n\n"
            await self._send({"type": "http.response.body", "body": event, "more_body": False})

    async def _send_error(self, error: ServingError) -> None:
        self.begun = self._complete = True
        body = json.dumps(error.body()).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"x-request-id", self._request_id.encode()),
        ]
        if error.retry_after_s is not None:
            headers.append((b"retry-after", str(round(error.retry_after_s)).encode()))
        await self._send({"type": "http.response.start", "status": error.status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body, "more_body": False})


def _in_one_body(status: int, headers: Headers) -> ServingError:
    """The proxy's own plain-text answer as one of ours."""
    messages: dict[int, Any] = {
        404: "no application is deployed at this path",
        408: "not answered within the proxy's time limit",
        429: "too many requests are waiting for the gateway",
        503: "the gateway is not there",
    }
    retry_after_s = float(headers.get("retry-after", "1")) if status in (429, 503) else None
    return ServingError(_KINDS[status], messages[status], retry_after_s=retry_after_s)
