"""Connections to the proxy, bounded: how many there are, how long and how large the head of a request may be, and how
long an answer may stay unread.

uvicorn has none of these bounds with its fast parser: a head that never ends would fill the memory, and clients that
say nothing would use up the sockets.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from uvicorn.config import HTTP_PROTOCOLS
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.errors import ServingError
from serving.http.error_response import error_response


class BoundedConnection(HttpToolsProtocol):
    """One connection.

    max_connections: beyond it, the one that has been idle longest is closed, and where none is, the new one.
    head_s: from the first byte of a request's head to its last; a new connection has as long.
    max_head_bytes: of one request, its path among them; of what follows a body in parts, as much again.
    unread_s: how long a client may leave so much of an answer unread that the server cannot write.
    """

    max_connections = 8192
    head_s = 20.0
    max_head_bytes = 64 * 1024
    unread_s = 300.0

    # Connections between two requests, the oldest first.
    _idle: ClassVar[dict[BoundedConnection, None]] = {}

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._in_head = True
        # Bytes since a head was complete or a part of a body came.
        self._head_bytes = 0
        self._num_parts = 0
        self._head_limit: asyncio.TimerHandle | None = None
        self._unread_limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(_JoinedWrites(transport, self.loop))  # type: ignore[arg-type]
        if len(self.connections) > self.max_connections:
            if not self._idle:
                self._refuse(ServingError("head_unavailable", "too many connections", retry_after_s=1))
                return
            oldest = next(iter(self._idle))
            del self._idle[oldest]
            oldest.transport.abort()
        self._idle[self] = None
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._idle.pop(self, None)
        for limit in (self._head_limit, self._unread_limit):
            if limit is not None:
                limit.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        num_parts = self._num_parts
        if self._in_head:
            self._expect_head()
        super().data_received(data)
        if self._num_parts > num_parts:
            self._head_bytes = 0
            return
        self._head_bytes += len(data)
        if self._head_bytes > self.max_head_bytes:
            limit = self.max_head_bytes
            self._refuse(ServingError("headers_too_large", f"path and headers have more than {limit} bytes"))

    def on_message_begin(self) -> None:
        self._expect_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._num_parts += 1
        self._idle.pop(self, None)
        if self._head_limit is not None:
            self._head_limit.cancel()
            self._head_limit = None
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._num_parts += 1
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_head = True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        if not self._in_head:
            # What is still to come of the body would keep the connection open for as long as the client likes.
            self.transport.close()
        elif not self.pipeline:
            self._idle[self] = None
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread_limit = self.loop.call_later(self.unread_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread_limit is not None:
            self._unread_limit.cancel()

    def _expect_head(self) -> None:
        if self._head_limit is None:
            self._head_limit = self.loop.call_later(self.head_s, self._head_is_late)

    def _head_is_late(self) -> None:
        self._head_limit = None
        if self._answering:
            self._expect_head()
        else:
            self._refuse(ServingError("request_timeout", "the headers did not arrive in time"))

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, error: ServingError) -> None:
        """Answers and closes; in the middle of the answer to an earlier request, only closes."""
        if self.transport.is_closing():
            return
        if not self._answering:
            response = error_response(error, "")
            response.headers["connection"] = "close"
            lines = [b"%s: %s" % header for header in response.raw_headers]
            status = b"HTTP/1.1 %d " % error.status
            self.transport.write(b"\r\n".join([status, *lines, b"", response.body]))
        self.transport.close()


class _JoinedWrites:
    """A transport that writes at once what is written in one step of the loop.

    uvicorn writes the head of an answer and its body one after the other: a gateway that is killed between them would
    leave HAProxy with an answer that has begun, and so cannot be asked for again.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._held:
            content, self._held = b"".join(self._held), []
            self._transport.write(content)


def bound_connections() -> None:
    """Makes this the protocol of every uvicorn server of this process that does not choose another."""
    HTTP_PROTOCOLS["auto"] = f"{__name__}:{BoundedConnection.__name__}"
