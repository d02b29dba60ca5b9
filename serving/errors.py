"""The one table from kinds of failure to HTTP statuses, and the error bodies: Hugging Face's and OpenAI's.

It knows no FastAPI and no Ray: failures are raised as `ServingError`, cross process borders as plain dicts
(`to_wire`, `from_wire`), and become a status in the gateway.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, kw_only=True)
class ErrorKind:
    """One row of the table: the status a client sees and the sentence the documentation shows.

    openai_...: what OpenAI's API calls it, and its status there, where that is another.
    """

    status: int
    meaning: str
    openai_type: str = "invalid_request_error"
    openai_code: str | None = None
    openai_status: int | None = None


ERROR_TABLE: dict[str, ErrorKind] = {
    "malformed_json": ErrorKind(status=400, meaning="The body is not JSON."),
    "invalid_api_key": ErrorKind(
        status=401, meaning="The API key is missing or unknown.", openai_code="invalid_api_key"
    ),
    "not_found": ErrorKind(status=404, meaning="No such path.", openai_code="unknown_url"),
    "unknown_head": ErrorKind(
        status=404, meaning="This server has no such head; the message lists its heads.", openai_code="model_not_found"
    ),
    "unknown_object": ErrorKind(status=404, meaning="No such file or batch."),
    "method_not_allowed": ErrorKind(
        status=405, meaning="The path exists, the method does not.", openai_code="method_not_supported"
    ),
    "request_timeout": ErrorKind(status=408, meaning="Headers or body did not arrive in time."),
    "payload_too_large": ErrorKind(status=413, meaning="The body is larger than the server accepts."),
    "unsupported_media_type": ErrorKind(status=415, meaning="The body is not application/json."),
    "invalid_input": ErrorKind(
        status=422,
        meaning="A field is missing, of the wrong type or beyond a limit.",
        openai_status=400,
        openai_code="invalid_value",
    ),
    "context_length_exceeded": ErrorKind(
        status=422,
        meaning="Prompt and max_tokens are more than the model reads.",
        openai_status=400,
        openai_code="context_length_exceeded",
    ),
    "overloaded": ErrorKind(
        status=429,
        meaning="The queue is full; try again after Retry-After seconds.",
        openai_type="requests",
        openai_code="rate_limit_exceeded",
    ),
    "headers_too_large": ErrorKind(status=431, meaning="Path and headers are larger than the server accepts."),
    "client_closed": ErrorKind(status=499, meaning="The client left before the answer; seen in logs only."),
    "internal": ErrorKind(status=500, meaning="A defect of the server.", openai_type="server_error"),
    "head_unavailable": ErrorKind(
        status=503,
        meaning="The head has no working replica.",
        openai_type="server_error",
        openai_code="service_unavailable",
    ),
    "deadline_exceeded": ErrorKind(
        status=504,
        meaning="Not answered within the request's time limit.",
        openai_type="server_error",
        openai_code="timeout",
    ),
}


# For how long a full replica is not asked again: a quarter of the time its queue takes to empty, so that the model does
# not run out of work, and half a second at most.
_BUSY_SHARE = 0.25
_MAX_BUSY_S = 0.5
# From the gateway to the proxy in front of it, `HEAD SECONDS`: every replica of the head refuses every request for so
# long. Clients do not see it.
BUSY_HEADER = "x-bigbird-busy"


class ServingError(Exception):
    """A failure with a row in `ERROR_TABLE`.

    `param` names the field at fault in the request, in dotted form (`inputs.3.question`), or is None.
    `openai_code` is what OpenAI calls it, where that says more than its row in the table.
    `retry_after_s` is in seconds and becomes the Retry-After header. For `busy_s` seconds the replica that says so
    would refuse every other request as well: it need not be asked.
    """

    def __init__(
        self,
        kind: str,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        busy_s: float = 0.0,
        openai_code: str | None = None,
    ) -> None:
        super().__init__(kind, message)
        if kind not in ERROR_TABLE:
            raise KeyError(f"{kind!r} has no row in ERROR_TABLE")
        self.kind = kind
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        self.busy_s = min(busy_s, _MAX_BUSY_S)
        self.openai_code = openai_code or ERROR_TABLE[kind].openai_code

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"

    @property
    def status(self) -> int:
        return ERROR_TABLE[self.kind].status

    def body(self) -> dict[str, Any]:
        """The body of Hugging Face's errors, and the field at fault where one is known."""
        body = {"error": self.message, "error_type": self.kind}
        return body if self.param is None else {**body, "param": self.param}

    @property
    def openai_status(self) -> int:
        return ERROR_TABLE[self.kind].openai_status or self.status

    def openai_body(self) -> dict[str, Any]:
        """The body of OpenAI's errors."""
        kind = ERROR_TABLE[self.kind].openai_type
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.openai_code}}

    def to_wire(self) -> dict[str, Any]:
        """The error as plain types, for the way between two processes."""
        return {
            "kind": self.kind,
            "message": self.message,
            "param": self.param,
            "retry_after_s": self.retry_after_s,
            "busy_s": self.busy_s,
            "openai_code": self.openai_code,
        }

    @classmethod
    def from_wire(cls, wire: dict[str, Any]) -> Self:
        return cls(**wire)


def overloaded(reason: str, wait_s: float, *, for_all: bool) -> ServingError:
    """The refusal of a queue whose wait is `wait_s` seconds; for_all: it would refuse every request."""
    retry_after_s = min(60.0, max(1.0, wait_s / 2))
    return ServingError(
        "overloaded", reason, retry_after_s=retry_after_s, busy_s=_BUSY_SHARE * wait_s if for_all else 0.0
    )
