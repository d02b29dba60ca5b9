"""Server-sent events: a head's events as lines, and a failure in the middle as a last event."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from fastapi import Request
from fastapi.responses import StreamingResponse

from serving.errors import ServingError
from serving.http.error_response import body_at

logger = logging.getLogger("ray.serve.bigbird")


async def event_stream(
    request: Request,
    events: AsyncIterator[dict[str, Any]],
    bodies: Callable[[dict[str, Any]], Iterator[dict[str, Any]]],
    end: bytes = b"",
) -> StreamingResponse:
    """The answer that streams what `bodies` makes of each event, and `end` where nothing broke.

    Waits for the first event, so that a request that is refused has its own status. Raises ServingError.
    """
    first = await anext(events)
    return StreamingResponse(
        _lines(first, events, bodies, request, end),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


async def _lines(
    first: dict[str, Any],
    events: AsyncIterator[dict[str, Any]],
    bodies: Callable[[dict[str, Any]], Iterator[dict[str, Any]]],
    request: Request,
    end: bytes,
) -> AsyncIterator[bytes]:
    event = first
    try:
        while True:
            for body in bodies(event):
                yield _line(body)
            try:
                event = await anext(events)
            except StopAsyncIteration:
                break
        if end:
            yield end
    except Exception as error:
        if not isinstance(error, ServingError):
            logger.error("a stream broke", exc_info=error)
            error = ServingError("internal", "unexpected failure; the server's log has the reason")
        request.state.error_kind = error.kind
        yield _line(body_at(error, request.url.path))
    finally:
        await events.aclose()  # type: ignore[attr-defined]


def _line(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body, ensure_ascii=False, allow_nan=False).encode() + b"\n\n"
