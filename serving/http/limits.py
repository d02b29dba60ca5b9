"""What a request may ask for: how many inputs, how much time; and what its answer cost, as headers.

It knows requests and the gateway's arguments, not tasks. What a connection may send, `edge/connections` bounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fastapi import Request

from serving.errors import ServingError
from serving.settings import GatewayArguments
from serving.texts import num_characters

# How the proxy hands on X-Request-Timeout-Seconds: under that name, Serve itself would obey it.
TIMEOUT_HEADER = "x-bigbird-timeout-seconds"


def _header(description: str, schema_type: str = "integer", **more: Any) -> dict[str, Any]:
    return {"description": description, "schema": {"type": schema_type, **more}}


# As OpenAPI shows them.
REQUEST_HEADERS: dict[str, Any] = {
    "parameters": [
        {"name": name, "in": "header", "required": False, **shown}
        for name, shown in (
            ("X-Request-Timeout-Seconds", _header("Less time than the server allows.", "number", exclusiveMinimum=0)),
            ("X-Request-ID", _header("Comes back in the answer and stands in the log.", "string", maxLength=128)),
        )
    ]
}
COST_HEADERS: dict[str, Any] = {
    "X-Num-Tokens": _header("Tokens of all inputs."),
    "X-Num-Windows": _header("Windows they were read in."),
    "X-Num-Truncated": _header("Inputs that were cut."),
    "Server-Timing": _header("Milliseconds of each part of the work.", "string"),
}


def check_size(
    inputs: Sequence[Any],
    arguments: GatewayArguments,
    param: str = "inputs",
    copies: int = 1,
    most: int | None = None,
) -> None:
    """Refuses a request with more inputs or more text than the server takes at once, before anything is tokenized.

    most: inputs, where the server's own limit does not hold.
    """
    limit = most or arguments.max_inputs_per_request
    if len(inputs) * copies > limit:
        raise ServingError(
            "invalid_input", f"{param} has {len(inputs) * copies} items, the limit is {limit}", param=param
        )
    limit = arguments.max_characters_per_request
    total = sum(map(num_characters, inputs))
    if total > limit:
        raise ServingError("invalid_input", f"{param} has {total} characters, the limit is {limit}", param=param)


def time_limit_s(request: Request, arguments: GatewayArguments) -> float:
    """Seconds this request may take: the server's limit, or less where the client asks for less."""
    header = request.headers.get(TIMEOUT_HEADER) or request.headers.get("x-request-timeout-seconds")
    if header is None:
        return arguments.request_timeout_s
    try:
        asked_s = float(header)
    except ValueError:
        asked_s = math.nan
    if not (math.isfinite(asked_s) and asked_s > 0):
        raise ServingError(
            "invalid_input", "X-Request-Timeout-Seconds has to be a number above 0", param="X-Request-Timeout-Seconds"
        )
    return min(asked_s, arguments.request_timeout_s)


def cost_headers(request: Request, outcome: dict[str, Any]) -> dict[str, str]:
    """What the answer cost and whether anything was cut: for bodies that have no room for it."""
    records = outcome["records"]
    num_tokens = sum(record.get("num_tokens", 0) for record in records)
    request.state.num_tokens = num_tokens
    timing = ", ".join(f"{name};dur={1000 * seconds:.2f}" for name, seconds in outcome["timings_s"].items())
    return {
        "X-Num-Tokens": str(num_tokens),
        "X-Num-Windows": str(sum(record.get("num_windows", 0) for record in records)),
        "X-Num-Truncated": str(sum(bool(record.get("truncated")) for record in records)),
        "Server-Timing": timing,
    }
