"""serving.http.proxy with applications of a few lines in the place of Serve's proxy."""

import asyncio
import json
from typing import Any

import pytest

from serving.http.proxy import PROXY_CALLBACK, Resend, middlewares

EVENT = b'data: {"choices": []}\n\n'


def start(status: int = 200, media_type: bytes = b"application/json", *more: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": [(b"content-type", media_type), *more]}


def body(content: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": content, "more_body": more}


class Proxy:
    """Answers its n-th call with the n-th list of messages; an empty list is a gateway that died."""

    def __init__(self, *answers: list[dict[str, Any]]) -> None:
        self.answers = list(answers)
        self.bodies: list[bytes] = []
        self.ids: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.ids.append(dict(scope["headers"]).get(b"x-request-id", b"").decode())
        content = b""
        while True:
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
        messages = [{"type": "http.disconnect"}]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    resend = proxy if isinstance(proxy, Resend) else Resend(proxy, report=lambda *_: None)
    asyncio.run(resend({"type": "http", "path": path, "headers": list(headers)}, receive, send))
    if not sent:
        return 0, {}, b""
    assert [message["type"] for message in sent].count("http.response.start") == 1
    answered = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], answered, b"".join(message["body"] for message in sent[1:])


def test_an_answer_goes_through_unchanged():
    proxy = Proxy([start(429, b"application/json", (b"retry-after", b"7")), body(b'{"error": 1}')])
    assert ask(proxy) == (429, {"content-type": "application/json", "retry-after": "7"}, b'{"error": 1}')


@pytest.mark.parametrize("lost", [[], [start()]], ids=["before it answers", "between head and body"])
def test_a_request_that_a_dead_gateway_lost_is_sent_again_whole(lost):
    proxy = Proxy(lost, lost, [start(), body(b"good")])
    assert ask(proxy, chunks=(b"ab", b"cd"))[::2] == (200, b"good")
    assert proxy.bodies == [b"abcd"] * 3
    assert len(set(proxy.ids)) == 1, "it stays the same request"


def test_a_request_that_kills_every_gateway_ends_with_503():
    proxy = Proxy(*[[]] * 9)
    status, headers, content = ask(proxy)
    assert (status, json.loads(content)["error"]["type"]) == (503, "head_unavailable")
    assert headers["retry-after"] == "1"
    assert headers["x-request-id"] == proxy.ids[0]
    assert len(proxy.bodies) == 6


def test_an_answer_that_has_begun_is_not_repeated():
    proxy = Proxy([start(), body(b"ha", more=True)])
    assert ask(proxy)[::2] == (200, b"ha")


def test_a_stream_that_breaks_ends_with_an_error_event():
    proxy = Proxy([start(200, b"text/event-stream; charset=utf-8"), body(EVENT, more=True)])
    status, _, content = ask(proxy, "/v1/completions")
    assert status == 200
    events = content.decode().split("\n\n")
    assert json.loads(events[1].removeprefix("data: "))["error"]["type"] == "head_unavailable"


def test_a_stream_that_is_whole_gets_nothing_added():
    proxy = Proxy([start(200, b"text/event-stream"), body(EVENT, more=True), body(b"data: [DONE]\n\n")])
    assert ask(proxy, "/v1/completions")[2] == EVENT + b"data: [DONE]\n\n"


def test_nothing_is_sent_again_for_a_client_that_has_left():
    proxy = Proxy([], [start(), body(b"too late")])
    assert ask(proxy, leaves=True)[0] == 0
    assert len(proxy.bodies) == 1


@pytest.mark.parametrize(
    ("status", "kind", "retry_after"),
    [(404, "not_found", None), (408, "proxy_timeout", None), (429, "overloaded", "3"), (503, "head_unavailable", "1")],
)
def test_what_the_proxy_says_in_plain_text_gets_the_one_error_body(status, kind, retry_after):
    more = ((b"retry-after", b"3"),) if status == 429 else ()
    proxy = Proxy([start(status, b"text/plain; charset=utf-8", *more), body(b"Request xyz timed out")])
    answered, headers, content = ask(proxy)
    error = json.loads(content)["error"]
    assert (answered, error["type"], set(error)) == (status, kind, {"type", "message", "param"})
    assert headers.get("retry-after") == retry_after


BUSY_HEADERS = [(b"x-request-id", b"first"), (b"x-bigbird-busy", b"fill-mask 30")]
BUSY = [start(429, b"application/json", *BUSY_HEADERS), body(b"full")]
GOOD = [start(200), body(b"good")]


def test_while_a_head_is_too_busy_for_anybody_its_gateway_is_not_asked():
    proxy, reported = Proxy(BUSY, GOOD), []
    resend = Resend(proxy, report=lambda *facts: reported.append(facts))
    told = {"content-type": "application/json"}
    assert ask(resend) == (429, {**told, "x-request-id": "first"}, b"full")
    again = ask(resend, headers=((b"x-request-id", b"second"),), chunks=(b"{", b"}"))
    assert again == (429, {**told, "x-request-id": "second"}, b"full")
    assert len(proxy.bodies) == 1
    ((head, status, seconds, kind),) = reported
    assert (head, status, kind) == ("fill-mask", 429, "overloaded")
    assert seconds >= 0
    assert ask(resend, "/v1/token-classification")[2] == b"good"


def test_a_page_of_another_origin_is_not_told_what_was_for_the_first():
    resend = Resend(Proxy(BUSY, GOOD), report=lambda *_: None)
    ask(resend, headers=((b"origin", b"https://a.example"),))
    assert ask(resend, headers=((b"origin", b"https://b.example"),))[2] == b"good"


def test_a_refusal_that_no_longer_holds_is_forgotten():
    past = [start(429, b"application/json", (b"x-bigbird-busy", b"fill-mask 0.000")), body(b"full")]
    resend = Resend(Proxy(past, GOOD), report=lambda *_: None)
    assert ask(resend)[0] == 429
    assert ask(resend)[2] == b"good"


def test_other_applications_keep_their_own_ways():
    proxy = Proxy([start(503, b"text/plain"), body(b"theirs")])
    assert ask(proxy, "/other/v1/x")[::2] == (503, b"theirs")


@pytest.mark.parametrize(("given", "kept"), [(b"mine-1", True), (b"a b", False)])
def test_an_id_that_is_unfit_for_a_log_is_replaced_before_anything_logs_it(given, kept):
    proxy = Proxy([start(), body(b"")])
    ask(proxy, headers=((b"x-request-id", given),))
    assert (proxy.ids[0] == given.decode()) == kept
    assert proxy.ids[0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Serve's own, where it is imported
def test_serve_finds_what_the_environment_names():
    from ray._common.utils import import_attr

    (path,) = PROXY_CALLBACK.values()
    assert import_attr(path) is middlewares
    assert [item.cls for item in middlewares()] == [Resend]
