"""Spans of what a replica does for one request, inside the span that Serve opened for its call.

Serve opens one where its tracing is on (`tracing_config`) and the request was sampled; its `request_id` is the one in
the log. Elsewhere nothing is recorded.
"""

from __future__ import annotations

import time

from opentelemetry import trace
from opentelemetry.context import Context


def place_of_request() -> Context | None:
    """Where the spans of this request belong, None where it is not traced."""
    span = trace.get_current_span()
    return trace.set_span_in_context(span) if span.is_recording() else None


def record(place: Context | None, name: str, seconds: float, *, ended: float | None = None, **attributes: int) -> None:
    """A span that took so long and ended now, or at `ended` by the monotonic clock."""
    if place is None:
        return
    ago_s = 0.0 if ended is None else time.monotonic() - ended
    end = time.time_ns() - int(ago_s * 1e9)
    tracer = trace.get_tracer("bigbird")
    span = tracer.start_span(name, place, attributes=attributes, start_time=end - int(seconds * 1e9))
    span.end(end)
