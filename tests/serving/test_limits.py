"""What a request and an answer may hold: sizes, lists, characters, and bodies that are not JSON."""

import gc
import json

import pytest
from error_bodies import error_in
from hypothesis import given
from hypothesis import strategies as st
from serving_fakes import FACTS, INPUTS, Server, assert_error

from serving.http import error_handlers
from serving.http.edge.request_bodies import BODY_IN_SCOPE, LOOKS_IN_SCOPE


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"inputs": "[MASK] " * 11, "parameters": {"top_k": 1000}}, "parameters.top_k"),
        ({"inputs": ["[MASK]"] * 101, "parameters": {"top_k": 100}}, "parameters.top_k"),
        ({"inputs": "x" * 5000 + "[MASK]", "parameters": {"top_k": 1000}}, "parameters.return_sequence"),
        ({"inputs": "x" * 1000 + "[MASK] " * 500, "parameters": {"top_k": 10, "return_sequence": True}},
         "parameters.return_sequence"),
    ],
)  # fmt: skip
def test_an_answer_of_fill_mask_that_would_be_far_larger_than_its_question_is_refused(server, body, param):
    assert_error(server.post("/v1/fill-mask", body), "invalid_input", param)
    assert server.heads["fill-mask"].calls == []


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("fill-mask", {"inputs": [0] * 300_000}, "inputs.0"),
        ("fill-mask", {"inputs": [""] * 300_000}, "inputs"),
        ("text-classification", {"inputs": [[]] * 300_000}, "inputs.0"),
        ("multiple-choice", {"inputs": {"prompt": "p", "choices": [0] * 300_000}}, "inputs.choices.0"),
        ("fill-mask", {"inputs": "a", **{f"k{n}": 0 for n in range(100_000)}}, "k0"),
        ("token-classification", {"inputs": "a", "parameters": {"ignore_labels": [0] * 300_000}},
         "parameters.ignore_labels.0"),
        ("completions", {"model": "text-generation", "prompt": [None] * 300_000}, "prompt.0"),
        ("completions", {"model": "text-generation", "prompt": "a", "logit_bias": {f"{n}": "" for n in range(100_000)}},
         "logit_bias"),
        ("embeddings", {"model": "feature-extraction", "input": [1.5] * 300_000}, "input.0"),
    ],
)  # fmt: skip
def test_a_body_of_a_million_mistakes_costs_one_error(server, path, body, param, monkeypatch):
    """Without a cap each item makes an error object: 1 MiB of them held the gateway for ten seconds."""
    seen = []
    whole = error_handlers.from_validation
    monkeypatch.setattr(
        error_handlers, "from_validation", lambda errors, body: seen.append(errors) or whole(errors, body)
    )
    assert_error(server.post(f"/v1/{path}", body), "invalid_input", param)
    assert len(seen[0]) <= 4, "one for each branch of a union at most"


def test_a_body_of_a_million_lists_is_parsed_without_a_search_for_garbage(server):
    """It took nine tenths of the time: a second for 8 MiB, in which no other request was answered."""
    collections = []

    def count(phase, _):
        collections.append(phase)

    gc.callbacks.append(count)
    try:
        assert_error(server.post("/v1/fill-mask", {"inputs": [[]] * 1_000_000}), "invalid_input", "inputs.0")
    finally:
        gc.callbacks.remove(count)
    assert gc.isenabled()
    assert len(collections) < 200, "thousands, where each 700 new lists begin one"


def test_more_characters_than_a_request_may_have_are_refused_before_anything_is_tokenized():
    server = Server(max_characters_per_request=100)
    for path, body, param in (
        ("fill-mask", {"inputs": ["x" * 60, "y" * 60]}, "inputs"),
        ("multiple-choice", {"inputs": {"prompt": "p" * 50, "choices": ["a" * 50, "b"]}}, "inputs"),
        ("completions", {"model": "text-generation", "prompt": "x" * 101}, "prompt"),
        ("embeddings", {"model": "feature-extraction", "input": "x" * 101}, "input"),
    ):
        response = server.post(f"/v1/{path}", body)
        assert_error(response, "invalid_input", param)
        assert "the limit is 100" in error_in(response.json())["message"]
    assert not any(head.calls for head in server.heads.values())


def test_a_large_answer_is_compressed_for_clients_that_take_it(server):
    vector = [0.5] * 20_000

    async def call(method, request, *, timeout_s):
        return {"records": [{"embedding": vector, **FACTS}], "timings_s": {}}

    server.heads["feature-extraction"].call = call
    answers = [
        server.post("/v1/feature-extraction", {"inputs": "a"}, headers={"Accept-Encoding": accepted})
        for accepted in ("gzip", "identity")
    ]
    assert [answer.headers.get("content-encoding") for answer in answers] == ["gzip", None]
    assert [answer.json() for answer in answers] == [[vector]] * 2


LEAVES = st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False)


@given(st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(), inner)))
def test_json_written_in_pieces_is_the_json_of_the_whole(value):
    from serving.http.apis import json_bodies

    assert json.loads("".join(json_bodies._pieces([value] * 600))) == [value] * 600


@pytest.mark.parametrize(
    ("task", "body", "param"),
    [
        ("fill-mask", {}, "inputs"),
        ("fill-mask", {"inputs": None}, "inputs"),
        ("fill-mask", {"inputs": []}, "inputs"),
        ("fill-mask", {"inputs": 3}, "inputs"),
        ("fill-mask", {"inputs": ["a", 3]}, "inputs.1"),
        ("fill-mask", {"inputs": "a", "parameters": {"top_k": 0}}, "parameters.top_k"),
        ("fill-mask", {"inputs": "a", "parameters": {"topk": 1}}, "parameters.topk"),
        ("fill-mask", {"inputs": "a", "pickle": "x"}, "pickle"),
        ("fill-mask", {"inputs": "a\ud800"}, "inputs"),
        ("fill-mask", [], None),
        ("multiple-choice", {"inputs": [INPUTS["multiple-choice"], {"prompt": "p"}]}, "inputs.1.choices"),
        ("multiple-choice", {"inputs": {"prompt": "p", "choices": ["a"]}}, "inputs.choices"),
        ("question-answering", {"inputs": {"question": 1, "context": "c"}}, "inputs.question"),
        ("text-classification", {"inputs": {"text": "a", "text_pair": 1}}, "inputs.text_pair"),
    ],
)
def test_bad_input_is_422_and_names_the_field(server, task, body, param):
    response = server.ask("POST", f"/v1/{task}", content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert_error(response, "invalid_input", param)
    assert server.heads[task].calls == []


def test_too_many_inputs_are_refused_with_limit_and_value():
    response = Server(max_inputs_per_request=2).post("/v1/fill-mask", {"inputs": ["a [MASK]"] * 3})
    assert_error(response, "invalid_input", "inputs")
    assert "3" in error_in(response.json())["message"]
    assert "2" in error_in(response.json())["message"]


@pytest.mark.parametrize("content", [b"{", b"", b"\xff", b"[" * 100_000, b"nonsense"])
def test_malformed_json_is_400(server, content):
    response = server.ask("POST", "/v1/fill-mask", content=content, headers={"Content-Type": "application/json"})
    # Nothing at all is not JSON that went wrong, but a body that is missing.
    assert_error(response, "malformed_json" if content else "invalid_input")


def test_a_body_that_does_not_say_it_is_json_is_415(server):
    assert_error(server.ask("POST", "/v1/fill-mask", content=b'{"inputs": "a"}'), "unsupported_media_type")


def test_a_body_that_the_proxy_put_into_the_scope_is_the_request_s():
    server = Server(max_body_bytes=100)
    app, given = server.app, {}

    async def proxied(scope, receive, send):
        await app({**scope, BODY_IN_SCOPE: given["body"]}, receive, send)

    server.app = proxied
    for content, status in ((b'{"inputs": "a [MASK]"}', 200), (b'{"inputs": "%s"}' % (b"x" * 100), 413)):
        given["body"] = content
        headers = {"Content-Type": "application/json"}
        response = server.ask("POST", "/v1/fill-mask", content=b"", headers=headers)
        assert response.status_code == status
        assert response.headers[LOOKS_IN_SCOPE] == "1"
    assert [call["inputs"] for _, call, _ in server.heads["fill-mask"].calls] == [["a [MASK]"]]


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_beyond_the_limit_is_413(declared):
    server = Server(max_body_bytes=1000)

    async def chunks():
        for _ in range(20):
            yield b"x" * 100

    content = b"x" * 2000 if declared else chunks()
    response = server.ask("POST", "/v1/fill-mask", content=content, headers={"Content-Type": "application/json"})
    assert_error(response, "payload_too_large")
    assert server.heads["fill-mask"].calls == []
