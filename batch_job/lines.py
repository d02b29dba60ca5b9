"""The lines of a batch's file: what is a request, and what is wrong with a line that is none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, BinaryIO, Literal

from pydantic import Field, ValidationError

from serving.errors import ServingError
from serving.http.apis.wire import Text, Wire
from serving.http.error_handlers import from_validation

_CHUNK_BYTES = 2**20


class _Request(Wire):
    custom_id: Annotated[Text, Field(min_length=1, max_length=512)]
    method: Literal["POST"]
    url: Text
    body: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line that is not empty. error: code and message where it is no request; then there is no body."""

    number: int
    id: str
    custom_id: str | None = None
    body: Any = None
    error: tuple[str, str] | None = None


def read_lines(stream: BinaryIO, batch_id: str, endpoint: str, max_bytes: int) -> Iterator[Line]:
    """The lines in order, numbered from 1. A custom_id that was there before is an error of the later line."""
    seen: set[str] = set()
    for number, raw in enumerate(_raw_lines(stream, max_bytes), 1):
        if not raw.strip():
            continue
        answer_id = f"batch_req_{batch_id.removeprefix('batch_')}{number:08x}"
        custom_id = None
        try:
            if len(raw) > max_bytes:
                raise _LineError("line_too_long", f"more than {max_bytes} bytes, the limit")
            given = _parsed(raw)
            custom_id = given.get("custom_id") if isinstance(given.get("custom_id"), str) else None
            request = _checked(given, endpoint)
            if request.custom_id in seen:
                raise _LineError("duplicate_custom_id", f"custom_id {request.custom_id[:100]!r} was there before")
            seen.add(request.custom_id)
        except _LineError as error:
            message = f"line {number}: {error.message}"
            yield Line(number=number, id=answer_id, custom_id=custom_id, error=(error.code, message))
        else:
            yield Line(number=number, id=answer_id, custom_id=request.custom_id, body=request.body)


class _LineError(Exception):
    def __init__(self, code: str, message: str) -> None:
        self.code, self.message = code, message


def _parsed(raw: bytes) -> dict[str, Any]:
    try:
        given = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise _LineError("invalid_json_line", f"not JSON: {error}") from None
    if not isinstance(given, dict):
        raise _LineError("invalid_json_line", f"{type(given).__name__}, expected an object")
    return given


def _checked(given: dict[str, Any], endpoint: str) -> _Request:
    try:
        request = _Request.model_validate(given)
    except ValidationError as error:
        found: ServingError = from_validation(error.errors(), given)
        raise _LineError("invalid_request", found.message) from None
    if request.url != endpoint:
        raise _LineError("url_mismatch", f"url is {request.url[:100]!r}, the batch's endpoint is {endpoint!r}")
    return request


def _raw_lines(stream: BinaryIO, max_bytes: int) -> Iterator[bytes]:
    """Lines without their ends; of one beyond the limit only so much that it can be seen."""
    rest = b""
    while chunk := stream.read(_CHUNK_BYTES):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
        rest = rest[: max_bytes + 1]
    if rest:
        yield rest
