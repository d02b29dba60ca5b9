"""Around Serve's HTTP proxy: what the gateway cannot do for itself, because it may be what died or what is full.

- A request goes on only once it is whole (`request_bodies`), without the headers by which a client could steer Serve.
- A request whose gateway died before it answered is sent again.
- A stream whose gateway died ends with an error event.
- What Serve's proxy says in plain text (time limit, full queue, nothing deployed) gets the one error body.
- While every replica of a head refuses every request, the refusal is repeated here for at most half a second: a
  refusal must not cost what an answer costs.

It knows ASGI, this application's paths and the error table, not Ray. Serve calls `middlewares` where a proxy starts, if
`SERVE_ENVIRONMENT` stands in the proxy's environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import re
import time
from functools import partial
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.errors import ServingError
from serving.http.edge.connections import bound_connections
from serving.http.edge.proxy_answer import ProxyAnswer, RepeatedRefusals
from serving.http.edge.request_bodies import BODY_IN_SCOPE, MAX_BYTES_IN_SCOPE, ClientLeft, HeldBody, RequestBodies
from serving.http.edge.requests import RequestReport, request_id
from serving.http.edge.transfers import is_transfer, transfer
from serving.http.limits import TIMEOUT_HEADER
from serving.http.routing.models import OTHER, task_at
from serving.settings import ALL_HEADS

logger = logging.getLogger("ray.serve.bigbird")

# What Serve's controller, proxies and replicas read from their environment.
SERVE_ENVIRONMENT = {
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serving.http.edge.proxy:middlewares",
    # Not five seconds, after which Serve ends a proxy and this command with it: a busy machine takes longer.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
    # One event loop for Serve's code and ours, which never holds it up: a tenth less processor time of a small request.
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
}

# Other applications behind the same proxy keep their own ways.
_OURS = re.compile(
    r"/(v1/.*|v2/rerank|health|ready|info|docs|openapi\.json|"
    r"rerank|score|similarity|embed|embed_all|predict|tokenize|decode)?"
)

# A request that kills its gateway must not go through every gateway there is: it is sent at most three times. By
# the second pause a lost node is known, and no longer chosen.
_PAUSES_S = (0.2, 3.0)

# The gateway ends a request in time with a better answer than Serve's: it has so much longer.
_GATEWAYS_WORD_S = 5.0

# Task endpoints, and some: a scanner must not be able to fill the memory with paths.
_MAX_PATHS = 1024

# What a client says to Serve itself: a time limit of its own (or none), not to notice that it left, which replica.
_SERVE_HEADERS = re.compile(
    rb"x-request-(timeout-seconds|disconnect-disabled)|x-serve-.*|serve[-_]multiplexed[-_].*|x[-_]session[-_]id|"
    + TIMEOUT_HEADER.encode()
)


def middlewares() -> list[Middleware]:
    """What Serve puts around its proxy."""
    from serving.http.metrics import GatewayMetrics  # of Ray, which is where a proxy runs

    bound_connections()
    return [Middleware(Proxy, report=GatewayMetrics().request)]


class Proxy:
    """Wraps Serve's proxy. `report` counts what is answered here; the gateway's `Edge` counts the rest.

    Every request of this application but a file's content may be sent twice: what it changes on the server is changed
    once, and an answer that has begun is never repeated.
    """

    def __init__(self, app: ASGIApp, *, report: RequestReport, bodies: RequestBodies | None = None) -> None:
        self._app = app
        self._report = report
        self._bodies = bodies or RequestBodies()
        self._refusals = RepeatedRefusals()
        # Pages of these origins may call, by what the gateway answered them.
        self._allowed_origins: set[str] = set()
        # Where the gateway takes a body out of the scope, by what it answered there.
        self._look_in_scope: set[str] = set()
        # Serve's own limit, which it would grant to each sending anew. Serve has put a layer around its proxy.
        self._serve_limit_s = float(getattr(getattr(app, "_app", app), "request_timeout_s", None) or "inf")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _OURS.fullmatch(scope["path"]):
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        headers = _clean(scope)
        scope = {**scope, "headers": headers.raw}
        answer = ProxyAnswer(
            send, scope["path"], headers["x-request-id"], headers.get("origin", ""), self._allowed_origins
        )
        with self._bodies.held() as body:
            try:
                if is_transfer(scope["method"], scope["path"]):
                    if await transfer(self._app, scope, receive, answer.take):
                        await answer.end()
                    return
                if scope["method"] in ("POST", "PUT", "PATCH"):
                    await self._bodies.read(body, headers, receive)
                place = (scope["path"], headers.get("origin", ""))
                if refusal := self._refusals.of(place):
                    await answer.repeat(refusal.head, refusal.body)
                    self._report(refusal.task, 429, time.monotonic() - started, "overloaded")
                    return
                answer.on_busy = partial(self._refusals.remember, place)
                replay = self._replay(scope, body, receive)
                await self._send_on(scope, replay, answer, started + self._limit_s(headers))
            except ServingError as error:
                await answer.fail(error)
            except ClientLeft:
                return
        if answer.own_error is None:
            self._learn(scope, answer.looks_in_scope)
        else:
            # The names of heads are not known here.
            task = task_at(scope["path"])
            head = task if task in ALL_HEADS else OTHER
            self._report(head, answer.own_error.status, time.monotonic() - started, answer.own_error.kind)

    def _replay(self, scope: Scope, body: HeldBody, receive: Receive) -> _Replay:
        in_scope = scope["path"] in self._look_in_scope and len(body.content) <= MAX_BYTES_IN_SCOPE
        if in_scope:
            scope[BODY_IN_SCOPE] = bytes(body.content)
        return _Replay(body, receive, in_scope=in_scope)

    def _learn(self, scope: Scope, looks_in_scope: bool) -> None:
        if scope["method"] == "OPTIONS":  # not answered by who answers the others
            return
        if not looks_in_scope:
            self._look_in_scope.discard(scope["path"])
        elif len(self._look_in_scope) < _MAX_PATHS:
            self._look_in_scope.add(scope["path"])

    def _limit_s(self, headers: Headers) -> float:
        """Seconds that a request may take, however often it is sent."""
        with contextlib.suppress(ValueError):
            if (asked_s := float(headers.get(TIMEOUT_HEADER, "inf"))) > 0:
                return min(asked_s + _GATEWAYS_WORD_S, self._serve_limit_s)
        return self._serve_limit_s

    async def _send_on(self, scope: Scope, replay: _Replay, answer: ProxyAnswer, deadline: float) -> None:
        for pause_s in (*_PAUSES_S, None):
            if (left_s := deadline - time.monotonic()) <= 0:
                raise ServingError("deadline_exceeded", "no gateway answered within the request's time limit")
            replay.rewind()
            answer.forget()
            limit = [] if left_s == math.inf else [(b"x-request-timeout-seconds", b"%.3f" % left_s)]
            # Serve's proxy returns without a word when the gateway's replica is lost, and when the client has left.
            await self._app({**scope, "headers": [*scope["headers"], *limit]}, replay.receive, answer.take)
            if answer.begun or replay.client_left or pause_s is None:
                break
            logger.warning("the gateway lost a request to %s, sending it again", scope["path"][:200])
            # Also gives the proxy's reader of the last sending the time to end.
            await asyncio.sleep(pause_s)
        if not replay.client_left:
            await answer.end()


def _clean(scope: Scope) -> MutableHeaders:
    """The request's headers with an id, and without what Serve would obey; the time limit under a name of our own."""
    given = Headers(scope=scope)
    kept = [(name, value) for name, value in scope["headers"] if not _SERVE_HEADERS.fullmatch(name.lower())]
    headers = MutableHeaders(raw=kept)
    headers["x-request-id"] = request_id(given)
    if (timeout := given.get("x-request-timeout-seconds")) is not None:
        headers[TIMEOUT_HEADER] = timeout
    return headers


class _Replay:
    """A body that was read, as often as it is sent; afterwards the client itself, which may leave.

    in_scope: the body goes another way.
    """

    def __init__(self, body: HeldBody, receive: Receive, *, in_scope: bool) -> None:
        self._body = body
        self._receive = receive
        self._in_scope = in_scope
        self._pending = not in_scope
        self._left: Message | None = None

    @property
    def client_left(self) -> bool:
        return self._left is not None

    def rewind(self) -> None:
        self._pending = not self._in_scope

    async def receive(self) -> Message:
        if self._pending:
            self._pending = False
            return {"type": "http.request", "body": bytes(self._body.content), "more_body": False}
        while self._left is None:
            message: Any = await self._receive()
            if message["type"] == "http.disconnect":
                self._left = message
        return self._left
