"""The one HTTP response of a failure: an ASGI application, so that proxy, edge and FastAPI all send the same.

Its body is what the clients of a path read: OpenAI's, Cohere's or Hugging Face's.
"""

from __future__ import annotations

import math
import re
from typing import Any

from fastapi.responses import JSONResponse

from serving.errors import ServingError
from serving.settings import GENERATION

# What OpenAI serves there, and this server in part.
_OPENAI_PATH = re.compile(
    r"/v1(/models/[^/]+)?/(completions|embeddings|chat|responses|files|batches|uploads|moderations|images|audio|"
    r"fine_tuning|assistants|threads|vector_stores|evals|conversations|realtime|videos|edits|engines)(/.*)?"
    r"|/v1/models(/[^/]*)?"
)
# Cohere's clients read `message`.
_RERANK_PATH = re.compile(r"(/v[12]|/v1/models/[^/]+)?/rerank")
_GENERATION_PATH = re.compile(rf"/v1(/models/[^/]+)?/{GENERATION}")
# By these huggingface_hub chooses the exception; `overloaded` it knows as well.
_GENERATION_TYPES = {"invalid_input": "validation", "context_length_exceeded": "validation"}


def speaks_openai(path: str) -> bool:
    """Whether requests to a path are OpenAI's."""
    return _OPENAI_PATH.fullmatch(path) is not None


def speaks_cohere(path: str) -> bool:
    """Whether Cohere's clients send requests to a path."""
    return _RERANK_PATH.fullmatch(path) is not None


def body_at(error: ServingError, path: str) -> dict[str, Any]:
    """The body of a failure at a path."""
    if speaks_openai(path):
        return error.openai_body()
    body = error.body()
    if speaks_cohere(path):
        body["message"] = error.message
    if _GENERATION_PATH.fullmatch(path):
        body["error_type"] = _GENERATION_TYPES.get(error.kind, error.kind)
    return body


def error_response(error: ServingError, path: str) -> JSONResponse:
    """Status, body and headers of a failure of a request to a path."""
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if error.kind == "invalid_api_key":
        headers["WWW-Authenticate"] = "Bearer"
    if error.kind == "deadline_exceeded":
        # OpenAI's clients repeat a 504 by themselves; the same request would take as long again.
        headers["X-Should-Retry"] = "false"
    status = error.openai_status if speaks_openai(path) else error.status
    return JSONResponse(body_at(error, path), status_code=status, headers=headers)
