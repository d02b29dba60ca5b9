"""The gRPC service: every call becomes the HTTP request it stands for, and goes through the same application.

So keys, limits, models, metrics and errors are those of HTTP, and there is one place for each. It knows the messages of
`bigbird.proto` and ASGI, not what a request means.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, Protocol

import grpc
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message
from starlette.datastructures import Headers
from starlette.types import ASGIApp
from starlette.types import Message as AsgiMessage

from serving.errors import ERROR_TABLE, ServingError
from serving.http.apis.tasks import TASKS
from serving.http.edge.requests import replayed
from serving.rpc import bigbird_pb2 as messages
from serving.settings import GENERATION

# Where Serve's gRPC proxy listens, whatever the host of HTTP is.
EVERYWHERE = "0.0.0.0"
# Where Serve's gRPC proxy finds the service, for `grpc_servicer_functions`.
SERVICER = "serving.rpc.bigbird_pb2_grpc.add_BigBirdServicer_to_server"

_HEADERS = ("authorization", "x-request-id", "x-request-timeout-seconds")
_CODES = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}


class Context(Protocol):
    """What is read and set of Serve's gRPC context."""

    def invocation_metadata(self) -> list[tuple[str, str]]: ...
    def set_code(self, code: grpc.StatusCode) -> None: ...
    def set_details(self, details: str) -> None: ...
    def set_trailing_metadata(self, metadata: list[tuple[str, str]]) -> None: ...


class Service:
    """The calls of `bigbird.proto` over an ASGI application. A reply with an error's code in the context is empty."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def score(self, request: Any, context: Context) -> Any:
        reply = messages.ScoreReply()
        if request.task not in TASKS:
            error = ServingError("unknown_head", f"task: no task {request.task[:100]!r}; they are {', '.join(TASKS)}")
            _fail(context, error.kind, error.message, None)
            return reply
        answer = await self._whole(f"/v1/{request.task}", _body(request), context)
        for item in answer or []:
            ParseDict(item, reply.answers.add())
        return reply

    async def embed(self, request: Any, context: Context) -> Any:
        answer = await self._whole("/v1/feature-extraction", _body(request), context)
        return messages.EmbedReply(embeddings=[messages.Embedding(values=values) for values in answer or []])

    async def generate(self, request: Any, context: Context) -> AsyncIterator[Any]:
        body = {"model": GENERATION, **_body(request), "stream": True}
        state: dict[str, Any] = {}
        async with aclosing(_ask(self._app, "/v1/completions", body, context, state)) as answer:
            status, retry_after = await anext(answer)
            if status != 200:
                _fail(context, state["error_kind"], json.loads(await _joined(answer))["error"]["message"], retry_after)
                yield messages.GenerateReply()
                return
            async for event in _events(answer):
                if "error" in event:
                    _fail(context, state["error_kind"], event["error"]["message"], None)
                    yield messages.GenerateReply()
                for choice in event.get("choices", ()):
                    yield messages.GenerateReply(text=choice["text"], finish_reason=choice["finish_reason"] or "")

    async def _whole(self, path: str, body: dict[str, Any], context: Context) -> Any:
        """The answer's JSON, or None once the context has an error's code."""
        state: dict[str, Any] = {}
        async with aclosing(_ask(self._app, path, body, context, state)) as answer:
            status, retry_after = await anext(answer)
            content = json.loads(await _joined(answer))
        if status != 200:
            _fail(context, state["error_kind"], content["error"], retry_after)
            return None
        return content


def _body(request: Message) -> dict[str, Any]:
    """The request as JSON, by the names of the .proto, without its task."""
    body: dict[str, Any] = _whole_numbers(MessageToDict(request, preserving_proto_field_name=True))
    body.pop("task", None)
    if "seed" in body:
        body["seed"] = int(body["seed"])  # 64 bits are text in protobuf's JSON
    if request.DESCRIPTOR.fields_by_name.get("inputs"):
        body.setdefault("inputs", [])
    else:
        body.setdefault("prompt", "")
    return body


def _whole_numbers(value: Any) -> Any:
    """Numbers without a fraction as integers: protobuf's values know only floating point."""
    if isinstance(value, dict):
        return {name: _whole_numbers(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_whole_numbers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


async def _ask(
    app: ASGIApp, path: str, body: dict[str, Any], context: Context, state: dict[str, Any]
) -> AsyncGenerator[Any, None]:
    """Status and Retry-After of the answer, then its body piece by piece. Closed early, the request is cancelled.

    state: gets the request's; `error_kind` is the kind of a failure, which OpenAI's bodies do not tell.
    """
    content = json.dumps(body).encode()
    given = [(name.encode(), value.encode()) for name, value in context.invocation_metadata() if name in _HEADERS]
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode()), *given]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": path, "raw_path": path.encode(), "root_path": "", "query_string": b"", "headers": headers,
        "client": None, "server": None, "state": state,
    }  # fmt: skip
    arrived: asyncio.Queue[AsgiMessage] = asyncio.Queue()
    # Nothing is received after the body: a client that leaves cancels the whole call.
    nothing: asyncio.Queue[AsgiMessage] = asyncio.Queue()
    asked = asyncio.ensure_future(app(scope, replayed(content, nothing.get), arrived.put))
    try:
        more = True
        while more:
            next_message = asyncio.ensure_future(arrived.get())
            await asyncio.wait({next_message, asked}, return_when=asyncio.FIRST_COMPLETED)
            if not next_message.done():
                next_message.cancel()
                await asked  # raises what it failed with
                raise RuntimeError("the application ended without an answer")
            message = next_message.result()
            if message["type"] == "http.response.start":
                yield message["status"], Headers(raw=message["headers"]).get("retry-after")
            else:
                more = message.get("more_body", False)
                yield message.get("body", b"")
    finally:
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)


async def _joined(pieces: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in pieces])


async def _events(pieces: AsyncIterator[bytes]) -> AsyncIterator[dict[str, Any]]:
    """The JSON of every server-sent event but the last, [DONE]."""
    left = b""
    async for piece in pieces:
        *lines, left = (left + piece).split(b"\n\n")
        for line in lines:
            if line != b"data: [DONE]":
                yield json.loads(line.removeprefix(b"data: "))


def _fail(context: Context, kind: str, message: str, retry_after: str | None) -> None:
    context.set_code(_CODES.get(ERROR_TABLE[kind].status, grpc.StatusCode.INVALID_ARGUMENT))
    context.set_details(message)
    context.set_trailing_metadata([("error-type", kind), *([("retry-after", retry_after)] if retry_after else [])])
