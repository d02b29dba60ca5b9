"""/v1/text-generation below Ray: text-generation-inference's bodies and server-sent events."""

import json

import pytest
from serving_fakes import Server, assert_error

from serving.errors import ServingError

TOKEN = {"id": 7, "text": " b", "logprob": -0.5, "special": False}
DETAILS = {"finish_reason": "length", "generated_tokens": 1, "input_length": 2, "seed": None}
WHOLE = {"generated_text": " b", "details": {**DETAILS, "prefill": [], "tokens": [TOKEN], "top_tokens": [[TOKEN]]}}
EVENT = {"index": 1, "token": TOKEN, "top_tokens": [TOKEN], "prefill": [], "generated_text": " b", "details": DETAILS}
PATH = "/v1/text-generation"


@pytest.fixture
def server() -> Server:
    made = Server()
    made.heads["text-generation"].answers = {"generate": WHOLE}
    made.heads["text-generation"].events = [EVENT]
    return made


def test_parameters_become_the_library_s_options_and_only_what_is_asked_for_is_answered(server):
    assert server.post(PATH, {"inputs": "a"}).json() == [{"generated_text": " b"}]
    head = server.heads["text-generation"]
    assert head.calls[-1][1]["options"] == {"stop": (), "prompt_logprobs": False}, "greedy where nothing draws"
    given = {"do_sample": True, "max_new_tokens": 3, "top_k": 4, "top_p": 0.5, "repetition_penalty": 1.5, "seed": 9}
    more = {"stop": ["x"], "truncate": 6, "details": True, "decoder_input_details": True, "return_full_text": True}
    (answer,) = server.post(PATH, {"inputs": "a", "parameters": {**given, **more}}).json()
    assert answer["generated_text"] == "a b"
    assert answer["details"]["tokens"] == [TOKEN]
    assert "top_tokens" not in answer["details"]
    call = head.calls[-1][1]
    assert call["truncate"] == 6
    assert call["options"] == {
        "max_new_tokens": 3, "top_k": 4, "top_p": 0.5, "temperature": 1.0, "repetition_penalty": 1.5, "seed": 9,
        "stop": ("x",), "prompt_logprobs": True,
    }  # fmt: skip
    server.post(PATH, {"inputs": "a", "parameters": {"temperature": 0.5, "top_n_tokens": 2}})
    options = head.calls[-1][1]["options"]
    assert options["num_top_logprobs"] == 2
    assert options["seed"] >= 0, "drawn by the gateway, so that another replica gives the same"


@pytest.mark.parametrize(
    ("parameters", "param"),
    [
        ({"best_of": 2}, "parameters.best_of"),
        ({"frequency_penalty": 0.5}, "parameters.frequency_penalty"),
        ({"grammar": {"type": "json", "value": {}}}, "parameters.grammar"),
        ({"adapter_id": "x"}, "parameters.adapter_id"),
        ({"typical_p": 0.5}, "parameters.typical_p"),
        ({"watermark": True}, "parameters.watermark"),
        ({"stop": [""]}, "parameters.stop.0"),
        ({"temperature": 0}, "parameters.temperature"),
        ({"do_sample": False, "top_k": 2}, "parameters"),
        ({"decoder_input_details": True}, "parameters"),
    ],
)
def test_what_is_not_served_is_refused_by_name(server, parameters, param):
    assert_error(server.post(PATH, {"inputs": "a", "parameters": parameters}), "invalid_input", param)
    neutral = {"best_of": 1, "frequency_penalty": 0.0, "watermark": False, "typical_p": 1.0, "grammar": None}
    assert server.post(PATH, {"inputs": "a", "parameters": neutral}).status_code == 200


def test_a_stream_is_an_event_a_token_and_a_break_ends_it_with_the_error_body(server):
    response = server.post(PATH, {"inputs": "a", "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    (line,) = [line for line in response.text.split("\n\n") if line]
    assert json.loads(line.removeprefix("data: ")) == {
        name: value for name, value in EVENT.items() if name not in ("prefill", "top_tokens")
    }
    head = server.heads["text-generation"]
    head.events = [{**EVENT, "details": None, "generated_text": None}, RuntimeError("secret path /srv/x")]
    broken = server.post(PATH, {"inputs": "a", "stream": True}).text
    assert json.loads(broken.split("data: ")[-1])["error_type"] == "internal"
    assert "/srv" not in broken
    head.events = [ServingError("overloaded", "full")]
    assert_error(server.post(PATH, {"inputs": "a", "stream": True}), "overloaded")
    assert head.closed_streams == 3
