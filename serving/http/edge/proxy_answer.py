"""What the proxy sends to one client: the gateway's answer as it comes, or one of its own."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Message, Send

from serving.errors import BUSY_HEADER, ServingError
from serving.http.edge.request_bodies import LOOKS_IN_SCOPE
from serving.http.error_response import body_at, error_response

_ALLOWED = "access-control-allow-origin"
_MAX_ORIGINS = 64

# The proxy's own plain-text answers: kind and message of the error that each one is.
_PLAIN_TEXT = {
    # Of this application's paths: it starts, or it has been told to end and finishes what it accepted.
    404: ("head_unavailable", "nothing is served here yet, or any more"),
    408: ("deadline_exceeded", "not answered within the proxy's time limit"),
    429: ("overloaded", "too many requests are waiting for the gateway"),
    500: ("internal", "unexpected failure; the proxy's log has the reason"),
    503: ("head_unavailable", "the gateway is not there"),
}


class ProxyAnswer:
    """The answer to one request. Its head is held until a body follows: so long, nothing has begun.

    on_busy(value, head, body): called with the value of BUSY_HEADER and the refusal it came with.
    """

    def __init__(self, send: Send, path: str, request_id: str, origin: str, allowed_origins: set[str]) -> None:
        self._send = send
        self._path = path
        self._request_id = request_id
        self._origin = origin
        self._allowed_origins = allowed_origins
        self.on_busy: Callable[[str, Message, Message], None] = lambda busy, head, body: None
        self._head: Message | None = None
        self._replaced: ServingError | None = None
        self._is_stream = False
        self._complete = False
        self.begun = False
        self.looks_in_scope = False
        self.own_error: ServingError | None = None

    def forget(self) -> None:
        """Before a request is sent again: what was said so far came from a gateway that died."""
        self._head = self._replaced = None

    async def take(self, message: Message) -> None:
        """One message of Serve's proxy."""
        if message["type"] == "http.response.start":
            headers = Headers(raw=message["headers"])
            media_type = headers.get("content-type", "").partition(";")[0]
            self._is_stream = media_type == "text/event-stream"
            self._head = message
            if media_type == "text/plain" and message["status"] in _PLAIN_TEXT:
                self._replaced = _in_one_body(message["status"], headers)
            return
        more = message.get("more_body", False)
        if self._replaced is not None:
            if not more:
                await self.fail(self._replaced)
            return
        if self._head is not None:
            await self._begin(self._head, message, more)
        self._complete = not more
        await self._send(message)

    async def _begin(self, head: Message, message: Message, more: bool) -> None:
        self._head, self.begun = None, True
        headers = MutableHeaders(raw=list(head["headers"]))
        if self._origin and headers.get(_ALLOWED) == self._origin and len(self._allowed_origins) < _MAX_ORIGINS:
            self._allowed_origins.add(self._origin)
        busy, self.looks_in_scope = headers.get(BUSY_HEADER), LOOKS_IN_SCOPE in headers
        if busy or self.looks_in_scope:
            del headers[BUSY_HEADER], headers[LOOKS_IN_SCOPE]
            head = {**head, "headers": headers.raw}
        if busy and not more:
            self.on_busy(busy, head, message)
        await self._send(head)

    async def repeat(self, head: Message, message: Message) -> None:
        """Answers with a refusal that another client got."""
        headers = MutableHeaders(raw=list(head["headers"]))
        headers["x-request-id"] = self._request_id
        self.begun = self._complete = True
        await self._send({**head, "headers": headers.raw})
        await self._send(message)

    async def end(self) -> None:
        """Says what went wrong where Serve's proxy ended without saying anything, or in the middle."""
        gone = ServingError("head_unavailable", "the gateway went away", retry_after_s=1)
        if not self.begun:
            await self.fail(gone)
        elif self._is_stream and not self._complete:
            event = b"data: " + json.dumps(body_at(gone, self._path)).encode() + b"\n\n"
            await self._send({"type": "http.response.body", "body": event, "more_body": False})

    async def fail(self, error: ServingError) -> None:
        """Answers with an error of the proxy's own."""
        self.begun = self._complete = True
        self.own_error = error
        response = error_response(error, self._path)
        response.headers["x-request-id"] = self._request_id
        if self._origin in self._allowed_origins:
            response.headers[_ALLOWED] = self._origin
            response.headers["vary"] = "Origin"
        if error.kind in ("request_timeout", "payload_too_large", "head_unavailable"):
            # What is still to come of the body is not read; and whoever connects anew may get to another server.
            response.headers["connection"] = "close"
        await self._send(
            {"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers}
        )
        await self._send({"type": "http.response.body", "body": response.body, "more_body": False})


def _in_one_body(status: int, headers: Headers) -> ServingError:
    kind, message = _PLAIN_TEXT[status]
    retry_after_s = float(headers.get("retry-after", "1")) if status in (404, 429, 503) else None
    return ServingError(kind, message, retry_after_s=retry_after_s)


@dataclass(frozen=True)
class RepeatedRefusal:
    """A refusal, head and body of the answer, and until when it holds for every request to this head."""

    task: str
    until: float
    head: Message
    body: Message


class RepeatedRefusals:
    """What heads that refuse every request last said: at which path, and to pages of which origin."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], RepeatedRefusal] = {}

    def remember(self, place: tuple[str, str], busy: str, head: Message, body: Message) -> None:
        """busy: the value of BUSY_HEADER."""
        task, seconds = busy.split()
        now = time.monotonic()
        self._last = {place: refusal for place, refusal in self._last.items() if refusal.until > now}
        self._last[place] = RepeatedRefusal(task, now + float(seconds), head, body)

    def of(self, place: tuple[str, str]) -> RepeatedRefusal | None:
        """What to repeat here, None where the head may take a request again."""
        refusal = self._last.get(place)
        return refusal if refusal is not None and refusal.until > time.monotonic() else None
