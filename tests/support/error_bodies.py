"""What the body of a failed request says, whichever clients the path is for."""

from __future__ import annotations

from typing import Any


def error_in(body: dict[str, Any]) -> dict[str, Any]:
    """type, message and param of Hugging Face's body, or OpenAI's as it is."""
    if not isinstance(body["error"], str):
        return body["error"]  # type: ignore[no-any-return]
    assert {"error", "error_type"} <= body.keys() <= {"error", "error_type", "param", "message"}, body
    assert body.get("message", body["error"]) == body["error"]
    return {"type": body["error_type"], "message": body["error"], "param": body.get("param")}
