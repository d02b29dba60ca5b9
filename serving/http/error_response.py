"""The one HTTP response of a failure: an ASGI application, so that proxy, edge and FastAPI all send the same."""

from __future__ import annotations

import math

from fastapi.responses import JSONResponse

from serving.errors import ServingError


def error_response(error: ServingError) -> JSONResponse:
    """Status, body and headers of a failure."""
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if error.kind == "invalid_api_key":
        headers["WWW-Authenticate"] = "Bearer"
    if error.kind == "deadline_exceeded":
        # OpenAI's clients repeat a 504 by themselves; the same request would take as long again.
        headers["X-Should-Retry"] = "false"
    return JSONResponse(error.body(), status_code=error.status, headers=headers)
