"""serving.http.edge.proxy with applications of a few lines in the place of Serve's proxy."""

import asyncio
import json
from typing import Any

import pytest
from error_bodies import error_in
from proxy_calls import ServesProxy, ask, body, start

from serving.http.edge import proxy as proxy_module
from serving.http.edge.proxy import SERVE_ENVIRONMENT, Proxy, middlewares

pytestmark = pytest.mark.usefixtures("no_pauses")

EVENT = b'data: {"choices": []}\n\n'


@pytest.fixture
def no_pauses(monkeypatch):
    monkeypatch.setattr(proxy_module, "_PAUSES_S", (0.0, 0.0))


def test_an_answer_goes_through_unchanged():
    proxy = ServesProxy([start(429, b"application/json", (b"retry-after", b"7")), body(b'{"error": 1}')])
    assert ask(proxy) == (429, {"content-type": "application/json", "retry-after": "7"}, b'{"error": 1}')


@pytest.mark.parametrize("lost", [[], [start()]], ids=["before it answers", "between head and body"])
def test_a_request_that_a_dead_gateway_lost_is_sent_again_whole(lost):
    proxy = ServesProxy(lost, lost, [start(), body(b"good")])
    assert ask(proxy, chunks=(b"ab", b"cd"))[::2] == (200, b"good")
    assert proxy.bodies == [b"abcd"] * 3
    assert len(set(proxy.ids)) == 1, "it stays the same request"


def test_a_request_that_kills_every_gateway_ends_with_503():
    proxy = ServesProxy(*[[]] * 9)
    status, headers, content = ask(proxy)
    assert (status, error_in(json.loads(content))["type"]) == (503, "head_unavailable")
    assert headers["retry-after"] == "1"
    assert headers["x-request-id"] == proxy.ids[0]
    assert len(proxy.bodies) == 3


class Layer:
    """What Serve puts between its proxy and ours."""

    def __init__(self, app, request_timeout_s):
        app.request_timeout_s = request_timeout_s
        self._app = app

    async def __call__(self, *arguments):
        await asyncio.sleep(0.02)
        await self._app(*arguments)


@pytest.mark.parametrize(("asked", "most"), [(None, 30), (b"2", 7), (b"99", 30), (b"-1", 30), (b"nan", 30), (b"x", 30)])
def test_a_request_has_one_time_limit_however_often_it_is_sent(asked, most):
    headers = () if asked is None else ((b"x-request-timeout-seconds", asked),)
    proxy = ServesProxy([], [], [start(), body(b"good")])
    assert ask(Proxy(Layer(proxy, 30.0), report=lambda *_: None), headers=headers)[::2] == (200, b"good")
    limits = [float(sent["x-request-timeout-seconds"]) for sent in proxy.headers]
    assert most - 1 < limits[0] <= most
    assert limits[0] > limits[1] > limits[2]


def test_a_request_whose_time_is_over_is_not_sent_again():
    proxy = ServesProxy([], [start(), body(b"too late")])
    status, _, content = ask(Proxy(Layer(proxy, 0.01), report=lambda *_: None))
    assert (status, error_in(json.loads(content))["type"]) == (504, "deadline_exceeded")
    assert len(proxy.bodies) == 1


LOOKS = [start(200, b"application/json", (b"x-bigbird-body-in-scope", b"1")), body(b"good")]


def test_a_small_body_goes_in_the_scope_once_the_gateway_has_said_that_it_looks_there():
    proxy = ServesProxy(LOOKS, LOOKS, [], LOOKS, LOOKS, GOOD, GOOD)
    ours = Proxy(proxy, report=lambda *_: None)
    large = b"x" * 100_000
    for chunk in (b"first", b"second", b"third", large):
        status, headers, content = ask(ours, chunks=(chunk,))
        assert (status, content) == (200, b"good")
        assert "x-bigbird-body-in-scope" not in headers
    assert proxy.bodies == [b"first", b"second", b"third", b"third", large]
    assert proxy.num_in_scope == 3
    # Another application may stand there now.
    ask(ours, chunks=(b"lost on it",))
    ask(ours, chunks=(b"not lost",))
    assert proxy.num_in_scope == 4
    assert proxy.bodies[-1] == b"not lost"


def test_an_answer_that_has_begun_is_not_repeated():
    proxy = ServesProxy([start(), body(b"ha", more=True)])
    assert ask(proxy)[::2] == (200, b"ha")


def test_a_stream_that_breaks_ends_with_an_error_event():
    proxy = ServesProxy([start(200, b"text/event-stream; charset=utf-8"), body(EVENT, more=True)])
    status, _, content = ask(proxy, "/v1/completions")
    assert status == 200
    events = content.decode().split("\n\n")
    assert json.loads(events[1].removeprefix("data: "))["error"]["code"] == "service_unavailable"


def test_a_stream_that_is_whole_gets_nothing_added():
    proxy = ServesProxy([start(200, b"text/event-stream"), body(EVENT, more=True), body(b"data: [DONE]\n\n")])
    assert ask(proxy, "/v1/completions")[2] == EVENT + b"data: [DONE]\n\n"


def test_nothing_is_sent_again_for_a_client_that_has_left():
    asked = []

    async def proxy(scope, receive, send):
        asked.append(await receive())
        while (await receive())["type"] != "http.disconnect":
            pass

    assert ask(proxy, leaves=True, chunks=(b"{}",))[0] == 0
    assert len(asked) == 1


def test_a_request_whose_client_leaves_before_it_is_whole_goes_nowhere():
    proxy = ServesProxy([start(), body(b"too late")])
    assert ask(proxy, leaves=True, chunks=())[0] == 0
    assert proxy.bodies == []


def test_what_a_dying_gateway_began_to_say_is_forgotten_before_the_request_is_sent_again():
    dying = [start(503, b"text/plain")]
    assert ask(ServesProxy(dying, [start(), body(b"good")]))[::2] == (200, b"good")


@pytest.mark.parametrize(
    ("status", "kind", "retry_after"),
    [
        (404, "head_unavailable", "1"),
        (408, "deadline_exceeded", None),
        (429, "overloaded", "3"),
        (503, "head_unavailable", "1"),
    ],
)
def test_what_the_proxy_says_in_plain_text_gets_the_one_error_body(status, kind, retry_after):
    more = ((b"retry-after", b"3"),) if status == 429 else ()
    proxy = ServesProxy([start(status, b"text/plain; charset=utf-8", *more), body(b"Request xyz timed out")])
    answered, headers, content = ask(proxy)
    error = error_in(json.loads(content))
    assert (answered, error["type"]) == ({404: 503, 408: 504}.get(status, status), kind)
    assert headers.get("retry-after") == retry_after


BUSY_HEADERS = [(b"x-request-id", b"first"), (b"x-bigbird-busy", b"fill-mask 30")]
BUSY = [start(429, b"application/json", *BUSY_HEADERS), body(b"full")]
GOOD = [start(200), body(b"good")]


def test_while_a_head_is_too_busy_for_anybody_its_gateway_is_not_asked():
    proxy, reported = ServesProxy(BUSY, GOOD), []
    ours = Proxy(proxy, report=lambda *facts: reported.append(facts))
    told = {"content-type": "application/json"}
    assert ask(ours) == (429, {**told, "x-request-id": "first"}, b"full")
    again = ask(ours, headers=((b"x-request-id", b"second"),), chunks=(b"{", b"}"))
    assert again == (429, {**told, "x-request-id": "second"}, b"full")
    assert len(proxy.bodies) == 1
    ((head, status, seconds, kind),) = reported
    assert (head, status, kind) == ("fill-mask", 429, "overloaded")
    assert seconds >= 0
    assert ask(ours, "/v1/token-classification")[2] == b"good"


def test_a_page_of_another_origin_is_not_told_what_was_for_the_first():
    ours = Proxy(ServesProxy(BUSY, GOOD), report=lambda *_: None)
    ask(ours, headers=((b"origin", b"https://a.example"),))
    assert ask(ours, headers=((b"origin", b"https://b.example"),))[2] == b"good"


def test_a_refusal_that_no_longer_holds_is_forgotten():
    past = [start(429, b"application/json", (b"x-bigbird-busy", b"fill-mask 0.000")), body(b"full")]
    ours = Proxy(ServesProxy(past, GOOD), report=lambda *_: None)
    assert ask(ours)[0] == 429
    assert ask(ours)[2] == b"good"


@pytest.mark.parametrize("name", ["x-request-timeout-seconds", "X-Request-Disconnect-Disabled", "x-serve-router-tokens",
                                  "serve_multiplexed_model_id", "serve-multiplexed-model-id", "x-session-id",
                                  "x-bigbird-timeout-seconds"])  # fmt: skip
def test_no_header_of_a_client_steers_serve(name):
    proxy = ServesProxy([start(), body(b"good")])
    ask(proxy, headers=((name.lower().encode(), b"-1"), (b"accept", b"application/json")))
    (headers,) = proxy.headers
    assert headers.get(name.lower()) != "-1" or name == "x-bigbird-timeout-seconds"
    assert headers["accept"] == "application/json"
    kept = "-1" if name == "x-request-timeout-seconds" else None
    assert headers.get("x-bigbird-timeout-seconds") == kept, "the gateway checks it"


def test_errors_of_the_proxy_itself_are_reported_and_readable_by_pages_that_may_call():
    reported: list[Any] = []
    origin = ((b"origin", b"https://a.example"),)
    allowed = (b"access-control-allow-origin", b"https://a.example")
    full = [start(429, b"text/plain"), body(b"")]
    proxy = ServesProxy([start(200, b"application/json", allowed), body(b"{}")], full, full)
    ours = Proxy(proxy, report=lambda *facts: reported.append(facts))
    ask(ours, headers=origin)
    status, headers, _ = ask(ours, headers=origin)
    assert (status, headers["access-control-allow-origin"]) == (429, "https://a.example")
    _, headers, _ = ask(ours, headers=((b"origin", b"https://b.example"),))
    assert "access-control-allow-origin" not in headers
    assert [(head, status, kind) for head, status, _, kind in reported] == [("fill-mask", 429, "overloaded")] * 2


def test_other_applications_keep_their_own_ways():
    proxy = ServesProxy([start(503, b"text/plain"), body(b"theirs")])
    assert ask(proxy, "/other/v1/x")[::2] == (503, b"theirs")


@pytest.mark.parametrize(("given", "kept"), [(b"mine-1", True), (b"a b", False)])
def test_an_id_that_is_unfit_for_a_log_is_replaced_before_anything_logs_it(given, kept):
    proxy = ServesProxy([start(), body(b"")])
    ask(proxy, headers=((b"x-request-id", given),))
    assert (proxy.ids[0] == given.decode()) == kept
    assert proxy.ids[0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Serve's own, where it is imported
def test_serve_finds_what_the_environment_names():
    from ray._common.utils import import_attr

    path = SERVE_ENVIRONMENT["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"]
    assert import_attr(path) is middlewares
    assert [item.cls for item in middlewares()] == [Proxy]
