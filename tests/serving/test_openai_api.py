"""serving.http.apis.openai_api below Ray: OpenAI's bodies and server-sent events, with heads of a few lines."""

import base64
import json
import math
import struct

import httpx
import pytest
from serving_fakes import Server, assert_error

from serving.errors import ServingError
from serving.http.edge.auth import ApiKeys


def test_a_completion_has_openai_s_shape(server):
    body = {"model": "text-generation", "prompt": ["a", "b"], "max_tokens": 5, "seed": 7, "stop": "x", "logprobs": 1,
            "logit_bias": {"5": -1}}  # fmt: skip
    answer = server.post("/v1/completions", body).json()
    assert answer["object"] == "text_completion"
    assert answer["usage"]["total_tokens"] == 3
    method, call, _ = server.heads["text-generation"].calls[-1]
    assert method == "complete"
    assert call["prompts"] == ["a", "b"]
    assert (call["n"], call["best_of"], call["echo"]) == (1, 1, False)
    assert call["options"] == {"max_new_tokens": 5, "temperature": 1.0, "top_p": 1.0, "seed": 7, "stop": ("x",),
                               "logit_bias": ((5, -1),), "logprobs": True, "num_top_logprobs": 1}  # fmt: skip


BODY = {"model": "text-generation", "prompt": "a"}
CHOICE = {"index": 0, "text": "x", "logprobs": None, "finish_reason": None}


USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


def sent_lines(response: httpx.Response) -> list[str]:
    return [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]


def test_a_streamed_completion_is_events_then_done(server):
    head = server.heads["text-generation"]
    second, ended = {**CHOICE, "index": 1}, {**CHOICE, "finish_reason": "stop"}
    head.events = [{"choices": [CHOICE, second]}, {"choices": [ended]}, {"usage": USAGE}]
    body = {"model": "text-generation", "prompt": "a", "stream": True, "stream_options": {"include_usage": True}}
    response = server.post("/v1/completions", body)
    assert response.headers["content-type"].startswith("text/event-stream")
    *lines, done = sent_lines(response)
    assert done == "[DONE]"
    chunks = [json.loads(line) for line in lines]
    assert [chunk["choices"] for chunk in chunks] == [[CHOICE], [second], [ended], []], "clients read one of a chunk"
    assert [chunk["usage"] for chunk in chunks] == [None, None, None, USAGE]
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert head.closed_streams == 1


def test_top_p_0_is_the_likeliest_token_as_temperature_0_is(server):
    for asked in ({"top_p": 0}, {"temperature": 0}, {"temperature": 0, "top_p": 0.5}):
        server.post("/v1/completions", {**BODY, **asked})
    assert [call["options"] for _, call, _ in server.heads["text-generation"].calls] == [
        {"temperature": 0.0, "logprobs": False, "num_top_logprobs": 0, "logit_bias": (), "stop": ()}
    ] * 3


def test_a_stream_refused_at_once_has_its_own_status(server):
    server.heads["text-generation"].events = [ServingError("invalid_input", "too long", param="prompt")]
    response = server.post("/v1/completions", {"model": "text-generation", "prompt": "a", "stream": True})
    assert_error(response, "invalid_input", "prompt")


def test_a_stream_that_breaks_ends_with_an_error_event(server):
    head = server.heads["text-generation"]
    head.events = [{"choices": [CHOICE]}, ServingError("head_unavailable", "the replica went away")]
    response = server.post("/v1/completions", {"model": "text-generation", "prompt": "a", "stream": True})
    assert response.status_code == 200
    lines = sent_lines(response)
    assert json.loads(lines[-1])["error"] == {"message": "the replica went away", "type": "server_error", "param": None,
                                              "code": "service_unavailable"}  # fmt: skip
    assert "[DONE]" not in lines
    assert server.metrics.requests[-1] == ("text-generation", 200, "head_unavailable")


def test_a_stream_with_a_defect_ends_with_an_error_event_that_tells_nothing(server):
    server.heads["text-generation"].events = [{"choices": [CHOICE]}, RuntimeError("secret path /srv/x")]
    response = server.post("/v1/completions", {"model": "text-generation", "prompt": "a", "stream": True})
    assert json.loads(sent_lines(response)[-1])["error"]["type"] == "server_error"
    assert "/srv" not in response.text


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": "a", "frequency_penalty": 1}, "frequency_penalty"),
        ({"prompt": "a", "suffix": "x"}, "suffix"),
        ({"prompt": "a", "logit_bias": {"x": 2}}, "logit_bias"),
        ({"prompt": "a", "logit_bias": {"1": 101}}, "logit_bias"),
        ({"prompt": "a", "logprobs": 6}, "logprobs"),
        ({"prompt": "a", "n": 3, "best_of": 2}, "best_of"),
        ({"prompt": "a", "stream": True, "best_of": 2}, "best_of"),
        ({"prompt": "a", "stream_options": {}}, "stream_options"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt.0"),
        ({"prompt": "a", "tools": []}, "tools"),
        ({"prompt": "a", "stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"prompt": "a", "temperature": -1}, "temperature"),
        ({}, "prompt"),
    ],
)
def test_what_completions_does_not_serve_is_refused_by_name(server, body, param):
    assert_error(server.post("/v1/completions", {"model": "text-generation", **body}), "invalid_input", param)


def test_a_model_that_is_not_here_is_404(server):
    assert_error(server.post("/v1/completions", {"model": "gpt", "prompt": "a"}), "unknown_head", "model")
    assert_error(server.post("/v1/embeddings", {"model": "gpt", "input": "a"}), "unknown_head", "model")


def test_embeddings_come_as_numbers_or_as_base64(server):
    body = {"model": "feature-extraction", "input": ["a", "b"]}
    answer = server.post("/v1/embeddings", body).json()
    length = math.sqrt(0.25**2 + 1)  # OpenAI's embeddings have length 1
    assert [item["embedding"] for item in answer["data"]] == [pytest.approx([0.25 / length, -1 / length])] * 2
    assert answer["usage"] == {"prompt_tokens": 14, "total_tokens": 14}
    packed = server.post("/v1/embeddings", {**body, "encoding_format": "base64"}).json()
    unpacked = struct.unpack("<2f", base64.b64decode(packed["data"][1]["embedding"]))
    assert unpacked == pytest.approx((0.25 / length, -1 / length), abs=1e-6)
    shorter = server.post("/v1/embeddings", {**body, "dimensions": 1}).json()
    assert [item["embedding"] for item in shorter["data"]] == [[1.0]] * 2
    assert_error(server.post("/v1/embeddings", {**body, "dimensions": 3}), "invalid_input", "dimensions")
    ids = server.post("/v1/embeddings", {**body, "input": [[5, 6], [7]]}).json()
    assert len(ids["data"]) == 2
    assert server.heads["feature-extraction"].calls[-1][1]["inputs"] == [[5, 6], [7]]
    assert len(server.post("/v1/embeddings", {**body, "input": ["a"] * 2048}).json()["data"]) == 2048
    assert_error(server.post("/v1/embeddings", {**body, "input": ["a"] * 2049}), "invalid_input", "input")


def test_a_head_is_found_among_the_models(server):
    assert server.ask("GET", "/v1/models/fill-mask").json()["id"] == "fill-mask"
    assert_error(server.ask("GET", "/v1/models/gpt"), "unknown_head", "model")
    refused = server.post("/v1/completions", {"model": "text-generation", "prompt": "a", "presence_penalty": 1})
    assert refused.json()["error"]["message"] == "presence_penalty: not served; leave it out or send 0"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stop": list("abcde")}, "stop: List should have at most 4 items"),
        ({"prompt": ["a", 5]}, "prompt.1: Input should be a valid string"),
        ({"prompt": [[1, "a"]]}, "prompt.0.1: Input should be a valid integer"),
        ({"prompt": [1, -2]}, "prompt.1: Input should be greater than or equal to 0"),
        ({"prompt": "a", "max_tokens": "5"}, "max_tokens: Input should be a valid integer"),
    ],
)
def test_of_a_field_of_several_types_the_message_is_about_the_one_that_was_sent(server, changes, message):
    assert server.post("/v1/completions", {**BODY, **changes}).json()["error"]["message"].startswith(message)


def test_an_embedding_that_fails_names_the_field_of_its_own_request(server):
    server.heads["feature-extraction"].failure = ServingError("invalid_input", "empty", param="inputs.1")
    response = server.post("/v1/embeddings", {"model": "feature-extraction", "input": ["a", ""]})
    assert_error(response, "invalid_input", "input.1")


@pytest.mark.parametrize(
    ("ask", "status", "code"),
    [
        ({"content": "{", "headers": {"Content-Type": "application/json"}}, 400, None),
        ({"json": {"model": "text-generation", "prompt": 5}}, 400, "invalid_type"),
        ({"json": {"model": "text-generation", "prompt": "a", "tools": []}}, 400, "unknown_parameter"),
        ({"json": {**BODY, "presence_penalty": 1}}, 400, "unsupported_parameter"),
        ({"json": {**BODY, "temperature": 3}}, 400, "decimal_above_max_value"),
        ({"json": {**BODY, "max_tokens": -1}}, 400, "integer_below_min_value"),
        ({"json": {**BODY, "stop": list("abcde")}}, 400, "array_above_max_length"),
        ({"json": {**BODY, "stream_options": {}}}, 400, "invalid_value"),
        ({"json": {"model": "text-generation"}}, 400, "missing_required_parameter"),
        ({"json": {"model": "gpt", "prompt": "a"}}, 404, "model_not_found"),
        ({"content": "a", "headers": {"Content-Type": "text/plain"}}, 415, None),
        ({"content": b" " * 2000, "headers": {"Content-Type": "application/json"}}, 413, None),
        ({"method": "DELETE"}, 405, "method_not_supported"),
        ({"path": "/v1/chat/completions", "json": {}}, 404, "unknown_url"),
        ({"path": "/v1/files", "json": {}}, 404, "unknown_url"),
        ({"path": "/v1/models/text-generation/completions", "json": {}}, 400, "missing_required_parameter"),
        ({"method": "GET", "path": "/v1/models/gpt"}, 404, "model_not_found"),
        ({"key": "wrong"}, 401, "invalid_api_key"),
        ({"failure": "overloaded"}, 429, "rate_limit_exceeded"),
        ({"failure": "head_unavailable"}, 503, "service_unavailable"),
        ({"failure": "deadline_exceeded"}, 504, "timeout"),
        ({"failure": "internal"}, 500, None),
        ({"failure": "context_length_exceeded"}, 400, "context_length_exceeded"),
    ],
)
def test_every_failure_at_openai_s_paths_has_openai_s_body(ask, status, code):
    server = Server(keys=ApiKeys(["right"]), max_body_bytes=1000)
    if kind := ask.get("failure"):
        server.heads["text-generation"].failure = ServingError(kind, "so it is")
    headers = {"Authorization": f"Bearer {ask.get('key', 'right')}", **ask.get("headers", {})}
    content = {"content": ask["content"]} if "content" in ask else {
        "json": ask.get("json", {"model": "text-generation", "prompt": "a"})
    }  # fmt: skip
    response = server.ask(ask.get("method", "POST"), ask.get("path", "/v1/completions"), headers=headers, **content)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    assert error["type"] in ("invalid_request_error", "server_error", "requests")
    assert error["message"]
