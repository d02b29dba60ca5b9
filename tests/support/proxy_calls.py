"""What tests of the proxy share: messages, an application in the place of Serve's proxy, and a client."""

import asyncio
from typing import Any

from serving.http.edge.proxy import Proxy
from serving.http.edge.request_bodies import BODY_IN_SCOPE


def start(status: int = 200, media_type: bytes = b"application/json", *more: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": [(b"content-type", media_type), *more]}


def body(content: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": content, "more_body": more}


class ServesProxy:
    """Answers its n-th call with the n-th list of messages; an empty list is a gateway that died."""

    def __init__(self, *answers: list[dict[str, Any]]) -> None:
        self.answers = list(answers)
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.num_in_scope = 0

    @property
    def ids(self) -> list[str]:
        return [headers["x-request-id"] for headers in self.headers]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.headers.append({name.decode(): value.decode() for name, value in scope["headers"]})
        content = scope.get(BODY_IN_SCOPE, b"")
        self.num_in_scope += BODY_IN_SCOPE in scope
        while BODY_IN_SCOPE not in scope:
            message = await receive()
            content += message.get("body", b"")
            if not message.get("more_body"):
                break
        self.bodies.append(content)
        for message in self.answers.pop(0):
            await send(message)


def ask(
    proxy: Any,
    path: str = "/v1/fill-mask",
    *,
    method: str = "POST",
    chunks: tuple[bytes, ...] = (b"{}",),
    headers: tuple[tuple[bytes, bytes], ...] = (),
    leaves: bool = False,
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer; status 0 where there is none."""
    messages = [
        {"type": "http.request", "body": chunk, "more_body": index < len(chunks) - 1}
        for index, chunk in enumerate(chunks)
    ]
    if leaves:
        messages.append({"type": "http.disconnect"})
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if not messages:
            await asyncio.Event().wait()
        return messages.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    ours = proxy if isinstance(proxy, Proxy) else Proxy(proxy, report=lambda *_: None)
    scope = {"type": "http", "method": method, "path": path, "headers": list(headers)}
    asyncio.run(ours(scope, receive, send))
    if not sent:
        return 0, {}, b""
    assert [message["type"] for message in sent].count("http.response.start") == 1
    answered = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], answered, b"".join(message["body"] for message in sent[1:])
