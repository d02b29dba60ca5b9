"""Every way a request can fail inside FastAPI, turned into an error body, and its description in OpenAPI.

It knows FastAPI's and Starlette's exceptions; which status a kind of error has is in `errors.ERROR_TABLE`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from serving.errors import BUSY_HEADER, ERROR_TABLE, ServingError
from serving.http.answers import ErrorBody, OpenAIErrorBody, RerankErrorBody
from serving.http.error_response import body_at, error_response, speaks_cohere, speaks_openai
from serving.http.routing.models import Models
from serving.settings import ALL_HEADS, EMBEDDING, GENERATION

logger = logging.getLogger("ray.serve.bigbird")

OPENAI_PATHS = {"/v1/completions": GENERATION, "/v1/embeddings": EMBEDDING}
# OpenAI's fields that are not served, and the value that changes nothing.
NOT_SERVED = {"frequency_penalty": "0", "presence_penalty": "0", "suffix": '""'}
_PYDANTICS_OBJECT = "a valid dictionary or object to extract fields from"
# By pydantic's names.
_OPENAI_CODES = {
    "missing": "missing_required_parameter",
    "extra_forbidden": "unknown_parameter",
    "too_long": "array_above_max_length",
    "too_short": "array_below_min_length",
}


def install(app: FastAPI, models: Models) -> None:
    """Adds the handlers. `models` are for the message of a 404."""

    def respond(request: Request, error: ServingError) -> Response:
        request.scope.setdefault("state", {})["error_kind"] = error.kind
        response = error_response(error, request.url.path)
        if error.busy_s and request.state.path_decides:
            response.headers[BUSY_HEADER] = f"{request.state.head} {error.busy_s:.3f}"
        return response

    @app.exception_handler(ServingError)
    async def serving_error(request: Request, error: ServingError) -> Response:
        return respond(request, error)

    @app.exception_handler(RequestValidationError)
    async def validation_error(request: Request, error: RequestValidationError) -> Response:
        return respond(request, from_validation(error.errors(), error.body))

    @app.exception_handler(HTTPException)
    async def http_exception(request: Request, error: HTTPException) -> Response:
        path = request.url.path
        if error.status_code == 404 and speaks_openai(path) and path not in OPENAI_PATHS:
            return respond(request, ServingError("not_found", _not_served(path, models)))
        if error.status_code == 404 and path.startswith("/v1/"):
            return respond(request, ServingError("unknown_head", _where(path, models)))
        if error.status_code == 404:
            return respond(request, ServingError("not_found", f"no {path[:100]} here; see /docs"))
        if error.status_code == 405:
            response = respond(request, ServingError("method_not_allowed", f"{path[:100]} has no {request.method}"))
            response.headers.update(error.headers or {})
            return response
        if error.status_code == 400:
            return respond(request, ServingError("malformed_json", "the body is not JSON"))
        return respond(request, ServingError("internal", "unexpected failure"))

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        logger.error("request failed", exc_info=error)
        return respond(request, ServingError("internal", "unexpected failure; the server's log has the reason"))


def _not_served(path: str, models: Models) -> str:
    served = [name for name, task in OPENAI_PATHS.items() if models.serves(task)]
    if path.startswith(("/v1/files", "/v1/batches")):
        return f"{path[:100]}: not served here, for want of the setting batches: {{storage: DIR}} (--batches DIR)"
    return f"{path[:100]}: not served here; of OpenAI's paths there are {', '.join([*served, '/v1/models'])}"


def _where(path: str, models: Models) -> str:
    what = f"no {path.removeprefix('/v1/')} head" if path.removeprefix("/v1/") in ALL_HEADS else f"no {path[:100]}"
    return f"{what} here; the heads are {', '.join(models.names)}"


def from_validation(errors: Sequence[Any], body: Any) -> ServingError:
    """The first error of a validation, as one ServingError that names the field.

    Pydantic's location also names branches of unions; only what can be followed through the body is kept.
    """
    first = _most_telling(errors, body)
    location = _location(first)
    if first["type"] == "json_invalid":
        return ServingError("malformed_json", f"the body is not JSON: {first.get('ctx', {}).get('error', '')}")
    unknown, code = first["type"] == "extra_forbidden", _openai_code(first)
    message = "unknown field" if unknown else first["msg"].removeprefix("Value error, ")
    if first["type"].endswith("_type"):
        message = _types_at(errors, first, body)
    if location and location[0] in NOT_SERVED:
        message, code = f"not served; leave it out or send {NOT_SERVED[location[0]]}", "unsupported_parameter"
    path = _followed(first, body)
    param = ".".join(path) or None
    message = f"{param}: {message}" if param else message
    return ServingError("invalid_input", message, param=param, openai_code=code)


def _openai_code(error: Any) -> str | None:
    """What OpenAI calls an error of a field's value; None where it has no name of its own."""
    kind, limits = error["type"], error.get("ctx", {})
    number = "decimal" if any(isinstance(limit, float) for limit in limits.values()) else "integer"
    if kind in ("less_than", "less_than_equal"):
        return f"{number}_above_max_value"
    if kind in ("greater_than", "greater_than_equal"):
        return f"{number}_below_min_value"
    return _OPENAI_CODES.get(kind, "invalid_type" if kind.endswith("_type") else None)


def _most_telling(errors: Sequence[Any], body: Any) -> Any:
    """Of the errors of the first field: where it may be of several types, each of them has one.

    A value beyond a limit is of the right type, and whatever lies deeper was read further.
    """
    field = errors[0]["loc"][:2]
    own = [error for error in errors if error["loc"][:2] == field]
    return max(own, key=lambda error: (not _is_of_another_form(error), len(_followed(error, body))))


def _is_of_another_form(error: Any) -> bool:
    return str(error["type"]).endswith("_type") or error["type"] in ("missing", "extra_forbidden")


def _types_at(errors: Sequence[Any], first: Any, body: Any) -> str:
    """All that a value of the wrong type might be."""
    path = _followed(first, body)
    said = [error["msg"] for error in errors if error["type"].endswith("_type") and _followed(error, body) == path]
    types = [message.removeprefix("Input should be ").replace(_PYDANTICS_OBJECT, "an object") for message in said]
    return f"Input should be {' or '.join(dict.fromkeys(types))}"


def _location(error: Any) -> list[Any]:
    return [part for part in error["loc"] if part != "body"]


def _followed(error: Any, body: Any) -> list[str]:
    location, missing = _location(error), error["type"] == "missing"
    path: list[str] = []
    value = body
    for position, part in enumerate(location):
        last = position == len(location) - 1
        in_list = isinstance(value, list) and isinstance(part, int) and part < len(value)
        if in_list or (isinstance(value, dict) and part in value):
            value = value[part]
        elif isinstance(part, int) or not (last and missing):
            # Index 0 of a single input that was made a list, or the name of a union's branch.
            continue
        path.append(str(part)[:100])
    return path


def responses(*kinds: str, path: str = "") -> dict[int | str, dict[str, Any]]:
    """OpenAPI entries for these kinds of errors, with an example body each; kinds of one status share an entry.

    path: where the body depends on it.
    """
    openai = speaks_openai(path)
    model = OpenAIErrorBody if openai else RerankErrorBody if speaks_cohere(path) else ErrorBody
    entries: dict[int | str, dict[str, Any]] = {}
    for kind in kinds:
        row = ERROR_TABLE[kind]
        error = ServingError(kind, row.meaning)
        entry = entries.setdefault(
            error.openai_status if openai else error.status,
            {
                "model": model,
                "description": "",
                "content": {"application/json": {"examples": {}}},
            },
        )
        entry["description"] = f"{entry['description']} {row.meaning}".strip()
        entry["content"]["application/json"]["examples"][kind] = {"value": body_at(error, path)}
        if kind in ("overloaded", "head_unavailable"):
            entry["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
    return entries


EVERYWHERE = (
    "malformed_json",
    "invalid_api_key",
    "request_timeout",
    "payload_too_large",
    "unsupported_media_type",
    "invalid_input",
)
COMPUTED = (*EVERYWHERE, "overloaded", "internal", "head_unavailable", "deadline_exceeded")


def complete_examples(document: dict[str, Any]) -> None:
    """Makes an OpenAPI document true where FastAPI does not: it leaves out what is null in OpenAI's error bodies."""
    for path, operations in document["paths"].items():
        if not speaks_openai(path):
            continue
        for operation in operations.values():
            operation["responses"].pop("422", None)  # FastAPI's own, of which none is answered there
            for response in operation["responses"].values():
                for example in response.get("content", {}).get("application/json", {}).get("examples", {}).values():
                    if "error" in example["value"]:
                        for name in ("param", "code"):
                            example["value"]["error"].setdefault(name, None)
