"""The outermost layer of the gateway: request ids, keys, body limits, the access log and request metrics.

Plain ASGI, so that what it refuses costs no parsing. It knows paths and headers, not what a body means.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
import uuid
from collections.abc import Callable
from typing import Any, Protocol

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.errors import ServingError
from serving.http.edge.auth import ApiKeys, KeyUse
from serving.http.edge.request_bodies import BODY_IN_SCOPE, LOOKS_IN_SCOPE, UPLOAD_PATH
from serving.http.error_response import error_response

logger = logging.getLogger("ray.serve.bigbird")

_SAFE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")

# A request with a wrong key waits so long for its answer; at most so many do at a time.
_WRONG_KEY_S = 0.2
_MAX_SLOWED = 64

# Who asks whether the server lives, what it offers, or how to use it needs no key.
OPEN_PATHS = frozenset({"/", "/health", "/ready", "/docs", "/openapi.json"})


def request_id(headers: Headers) -> str:
    """The id a client gave its request, or a new one where there is none that is fit for a log."""
    given = headers.get("x-request-id", "")
    return given if _SAFE_ID.fullmatch(given) else uuid.uuid4().hex


def bearer_key(headers: Headers) -> str | None:
    """What stands behind `Authorization: Bearer`."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip(" \t") if scheme.lower() == "bearer" else None


RequestReport = Callable[[str, int, float, str | None], None]


class RequestMetrics(Protocol):
    """Where the edge tells of requests: head, status, seconds and kind of error of each; how many there are now."""

    def request(self, head: str, status: int, seconds: float, error_kind: str | None) -> None: ...

    def in_flight(self, num_requests: int) -> None: ...


class Edge:
    """Wraps the application.

    head_at: the name under which a request to a path counts, where the request itself did not get to a head.

    The handlers below find the request's id in `scope["state"]["request_id"]` and leave the kind of an error in
    `scope["state"]["error_kind"]`.
    """

    def __init__(self, app: ASGIApp, *, keys: ApiKeys, max_body_bytes: int, head_at: Callable[[str], str],
                 metrics: RequestMetrics) -> None:  # fmt: skip
        self._app = app
        self._keys = keys
        self._max_body_bytes = max_body_bytes
        self._head_at = head_at
        self._metrics = metrics
        self._num_open = 0
        self._num_slowed = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        head_only = scope["method"] == "HEAD"
        if head_only:
            scope = {**scope, "method": "GET"}
        headers = Headers(scope=scope)
        state = scope.setdefault("state", {})
        state["request_id"] = request_id(headers)
        status = 499
        finished = False
        use: KeyUse | None = None

        async def observed_send(message: Message) -> None:
            nonlocal status, finished
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], (LOOKS_IN_SCOPE.encode(), b"1")]}
            elif message["type"] == "http.response.body" and not message.get("more_body", False):
                finished = True
            if head_only and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        self._num_open += 1
        self._metrics.in_flight(self._num_open)
        try:
            use = await self._checked_key(scope, headers)
            if scope["method"] != "POST" or scope["path"] != UPLOAD_PATH:
                receive = replayed(await self._checked_body(scope, headers, receive), receive)
            await self._app(scope, receive, observed_send)
        except ServingError as error:
            state["error_kind"] = error.kind
            await error_response(error, scope["path"])(scope, receive, observed_send)
        except Exception:
            # The layer around this one answers with 500.
            status, finished, state["error_kind"] = 500, True, "internal"
            raise
        finally:
            self._num_open -= 1
            self._metrics.in_flight(self._num_open)
            if use is not None:
                use.end(state.get("num_tokens") or 0)
            self._account(scope, state, status if finished else 499, time.monotonic() - started)

    async def _checked_key(self, scope: Scope, headers: Headers) -> KeyUse | None:
        """The use of the request's key, None where none is needed. Raises ServingError."""
        if not self._keys.required or scope["path"] in OPEN_PATHS or scope["method"] == "OPTIONS":
            return None
        use = self._keys.find(bearer_key(headers))
        if use is None:
            if self._num_slowed >= _MAX_SLOWED:
                raise ServingError("overloaded", "too many requests with wrong keys", retry_after_s=1)
            self._num_slowed += 1
            try:
                await asyncio.sleep(_WRONG_KEY_S)
            finally:
                self._num_slowed -= 1
            raise ServingError("invalid_api_key", "send a valid key as `Authorization: Bearer KEY`")
        use.begin()
        return use

    async def _checked_body(self, scope: Scope, headers: Headers, receive: Receive) -> bytes:
        limit = self._max_body_bytes
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > limit:
            raise ServingError("payload_too_large", f"the body has {length} bytes, the limit is {limit}")
        body: bytes | None = scope.pop(BODY_IN_SCOPE, None)
        if body is None:
            body = await _received(receive, limit)
        elif len(body) > limit:
            raise ServingError("payload_too_large", f"the body has {len(body)} bytes, the limit is {limit}")
        media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if scope["method"] == "POST" and body and media_type != "application/json":
            raise ServingError(
                "unsupported_media_type",
                f"send Content-Type: application/json, not {json.dumps(media_type[:100]) if media_type else 'none'}",
            )
        return body

    def _account(self, scope: Scope, state: dict[str, Any], status: int, seconds: float) -> None:
        path = scope["path"]
        # Only names of this server become tag values: a scanner must not be able to grow the metrics.
        head = state.get("head") or self._head_at(path)
        kind = "client_closed" if status == 499 else state.get("error_kind")
        self._metrics.request(head, status, seconds, kind)
        duration_ms = round(1000 * seconds, 3)
        line = (scope["method"], path[:200], status, duration_ms, state["request_id"])
        logger.info(
            "%s %s %s %s ms %s",
            *line,
            extra={
                "bigbird_request_id": state["request_id"],
                "method": scope["method"],
                "path": path[:200],
                "head": head,
                "status": status,
                "error_kind": kind,
                "duration_ms": duration_ms,
                "num_tokens": state.get("num_tokens"),
            },
        )


async def _received(receive: Receive, limit: int) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ServingError("client_closed", "the client left before its request was whole")
        body += message.get("body", b"")
        if len(body) > limit:
            raise ServingError("payload_too_large", f"the body has more than {limit} bytes")
        if not message.get("more_body", False):
            return bytes(body)


def replayed(body: bytes, receive: Receive) -> Receive:
    """`receive` as if the body had not been read yet; afterwards the real one, which knows of disconnects."""
    pending = True

    async def replay() -> Message:
        nonlocal pending
        if pending:
            pending = False
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return replay
