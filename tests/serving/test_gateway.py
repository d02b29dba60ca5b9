"""serving.http.gateway below Ray: routes, shapes, limits, keys and the whole error table, with heads of a few lines."""

import asyncio
import base64
import hashlib
import json
import math
import struct
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving_fakes import FACTS, INPUTS, RECORDS, FakeHead, RecordedMetrics

from serving.errors import ERROR_TABLE, ServingError
from serving.http import error_handlers
from serving.http.auth import ApiKeys
from serving.http.gateway import create_app
from serving.settings import ALL_HEADS, GatewayArguments, HeadArguments


class Server:
    """The application with its fakes, and one blocking way to ask it something."""

    def __init__(self, tasks=ALL_HEADS, *, keys: ApiKeys | None = None, **arguments: Any) -> None:
        self.heads = {task: FakeHead(task) for task in tasks}
        self.metrics = RecordedMetrics()
        self.app = create_app(
            self.heads,
            head_arguments={task: HeadArguments(checkpoint=f"/srv/models/{task}") for task in tasks},
            arguments=GatewayArguments(**arguments),
            keys=keys or ApiKeys([]),
            versions={"bigbird-on-ray": "1.2.3"},
            metrics=self.metrics,
        )

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def main() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, **options)

        return asyncio.run(main())

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        return self.ask("POST", path, json=body, **options)


@pytest.fixture
def server() -> Server:
    return Server()


def assert_error(response: httpx.Response, kind: str, param: str | None = None) -> None:
    assert response.status_code == ERROR_TABLE[kind].status, response.text
    error = response.json()["error"]
    assert set(error) == {"type", "message", "param"}
    assert (error["type"], error["param"]) == (kind, param), error
    assert error["message"]


@pytest.mark.parametrize("task", RECORDS)
def test_one_input_is_answered_bare_and_a_list_with_a_list(server, task):
    one = server.post(f"/v1/{task}", {"inputs": INPUTS[task]})
    two = server.post(f"/v1/{task}", {"inputs": [INPUTS[task]] * 2})
    assert (one.status_code, two.status_code) == (200, 200), one.text
    always_list = task in ("text-classification", "feature-extraction")
    assert two.json() == (one.json() * 2 if always_list else [one.json()] * 2)
    assert one.headers["x-num-tokens"] == "7"
    assert two.headers["x-num-windows"] == "4"
    assert "tokenize;dur=1.00" in one.headers["server-timing"]


@pytest.mark.parametrize("task", RECORDS)
def test_every_answer_fits_its_own_documentation(server, task):
    import jsonschema

    document = server.ask("GET", "/openapi.json").json()
    schema = document["paths"][f"/v1/{task}"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    for body in ({"inputs": INPUTS[task]}, {"inputs": [INPUTS[task]] * 2}):
        jsonschema.validate(server.post(f"/v1/{task}", body).json(), {**schema, "components": document["components"]})


def test_fill_mask_gives_the_text_with_the_mask_replaced(server):
    (candidate,) = server.post("/v1/fill-mask", {"inputs": "a [MASK] c"}).json()
    assert candidate == {"token": 5, "token_str": " b", "score": 0.5, "sequence": "a b c"}


def test_several_masks_give_a_list_for_each(server):
    mask = RECORDS["fill-mask"]["masks"][0]
    record = {"masks": [mask, {**mask, "position": 11}], **FACTS}

    async def call(method, request, *, timeout_s):
        return {"records": [record], "timings_s": {}}

    server.heads["fill-mask"].call = call
    two_masks = {"inputs": "a [MASK] c [MASK]"}
    plain = server.post("/v1/fill-mask", two_masks).json()
    assert ["sequence" in candidate for (candidate,) in plain] == [False, False], "as transformers: with one mask only"
    answer = server.post("/v1/fill-mask", {**two_masks, "parameters": {"return_sequence": True}}).json()
    assert [candidates[0]["sequence"] for candidates in answer] == ["a b c [MASK]", "a [MASK] c b"]
    one_mask = {"inputs": "a [MASK] c", "parameters": {"return_sequence": False}}
    record["masks"].pop()
    assert "sequence" not in server.post("/v1/fill-mask", one_mask).json()[0]


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
        ("completions", {"model": "text-generation", "prompt": [None] * 300_000}, "prompt"),
        ("completions", {"model": "text-generation", "prompt": "a", "logit_bias": {f"{n}": "" for n in range(100_000)}},
         "logit_bias"),
        ("embeddings", {"model": "feature-extraction", "input": [1.5] * 300_000}, "input"),
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
        assert "the limit is 100" in response.json()["error"]["message"]
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
    from serving.http import json_bodies

    assert json.loads("".join(json_bodies._pieces([value] * 600))) == [value] * 600


@pytest.mark.parametrize(
    ("task", "parameters", "options"),
    [
        ("token-classification", {"aggregation_strategy": "first", "ignore_labels": ["O", "X"], "stride": 3},
         {"aggregation_strategy": "first", "ignore_labels": ("O", "X"), "window_overlap": 3}),
        ("text-classification", {"top_k": 1, "function_to_apply": "sigmoid"}, {"function_to_apply": "sigmoid"}),
        ("feature-extraction", {"truncate": True}, {"on_long": "truncate"}),
        ("masked-lm-scoring", {"return_tokens": True, "on_long": "error"}, {"return_tokens": True, "on_long": "error"}),
        ("fill-mask", {}, {}),
    ],
)  # fmt: skip
def test_parameters_reach_the_head_under_the_library_names(server, task, parameters, options):
    assert server.post(f"/v1/{task}", {"inputs": INPUTS[task], "parameters": parameters}).status_code == 200
    assert server.heads[task].calls[-1][1]["options"] == options


def test_top_k_cuts_the_labels(server):
    response = server.post("/v1/text-classification", {"inputs": "a", "parameters": {"top_k": 1}})
    assert response.json() == [[{"label": "good", "score": 0.8}]]


def test_feature_extraction_takes_its_parameters_beside_the_inputs_too(server):
    server.post("/v1/feature-extraction", {"inputs": "a", "normalize": True})
    assert server.heads["feature-extraction"].calls[-1][1]["options"] == {"normalize": True}


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
        ("text-classification", {"inputs": {"text": "a", "text_pair": 1}}, "inputs"),
    ],
)
def test_bad_input_is_422_and_names_the_field(server, task, body, param):
    response = server.ask("POST", f"/v1/{task}", content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert_error(response, "invalid_input", param)
    assert server.heads[task].calls == []


def test_too_many_inputs_are_refused_with_limit_and_value():
    response = Server(max_inputs_per_request=2).post("/v1/fill-mask", {"inputs": ["a [MASK]"] * 3})
    assert_error(response, "invalid_input", "inputs")
    assert "3" in response.json()["error"]["message"]
    assert "2" in response.json()["error"]["message"]


@pytest.mark.parametrize("content", [b"{", b"", b"\xff", b"[" * 100_000, b"nonsense"])
def test_malformed_json_is_400(server, content):
    response = server.ask("POST", "/v1/fill-mask", content=content, headers={"Content-Type": "application/json"})
    # Nothing at all is not JSON that went wrong, but a body that is missing.
    assert_error(response, "malformed_json" if content else "invalid_input")


def test_a_body_that_does_not_say_it_is_json_is_415(server):
    assert_error(server.ask("POST", "/v1/fill-mask", content=b'{"inputs": "a"}'), "unsupported_media_type")


def test_an_unknown_head_is_404_and_lists_those_there():
    server = Server(["fill-mask", "question-answering"])
    for path in ("/v1/token-classification", "/v1/nonsense", "/v1/completions", "/v1/embeddings"):
        response = server.post(path, {"inputs": "a"})
        assert_error(response, "unknown_head")
        assert "fill-mask, question-answering" in response.json()["error"]["message"]
    assert_error(server.ask("GET", "/nowhere"), "not_found")


def test_a_wrong_method_is_405_and_names_the_right_one(server):
    response = server.ask("GET", "/v1/fill-mask")
    assert_error(response, "method_not_allowed")
    assert response.headers["allow"] == "POST"


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


@pytest.mark.parametrize("kind", ["invalid_input", "overloaded", "head_unavailable", "deadline_exceeded", "internal"])
def test_what_a_head_says_becomes_its_row_of_the_table(server, kind):
    server.heads["fill-mask"].failure = ServingError(kind, "because", param=None, retry_after_s=2.2)
    response = server.post("/v1/fill-mask", {"inputs": "a"})
    assert_error(response, kind)
    assert response.headers["retry-after"] == "3"
    assert server.metrics.requests[-1] == ("fill-mask", ERROR_TABLE[kind].status, kind)


def test_the_proxy_is_told_for_how_long_a_head_refuses_everybody(server):
    server.heads["fill-mask"].failure = ServingError("overloaded", "full", retry_after_s=2, busy_s=0.1)
    assert server.post("/v1/fill-mask", {"inputs": "a"}).headers["x-bigbird-busy"] == "fill-mask 0.100"


def test_a_defect_is_500_without_details(server):
    server.heads["fill-mask"].failure = RuntimeError("secret path /srv/x")
    response = server.post("/v1/fill-mask", {"inputs": "a"})
    assert_error(response, "internal")
    assert "/srv" not in response.text
    assert server.metrics.requests[-1] == ("fill-mask", 500, "internal")


@pytest.mark.parametrize(("header", "limit_s"), [(None, 60.0), ("10", 10.0), ("1000", 60.0)])
def test_a_client_may_shorten_its_time_limit(server, header, limit_s):
    headers = {} if header is None else {"X-Request-Timeout-Seconds": header}
    server.post("/v1/fill-mask", {"inputs": "a"}, headers=headers)
    assert server.heads["fill-mask"].calls[-1][2] == pytest.approx(limit_s)


@pytest.mark.parametrize("header", ["0", "-1", "nan", "inf", "soon"])
def test_a_time_limit_that_is_none_is_refused(server, header):
    response = server.post("/v1/fill-mask", {"inputs": "a"}, headers={"X-Request-Timeout-Seconds": header})
    assert_error(response, "invalid_input", "X-Request-Timeout-Seconds")


def test_a_key_is_asked_for_where_keys_are_set():
    server = Server(keys=ApiKeys(["one", "two"]))
    for headers in ({}, {"Authorization": "Bearer three"}, {"Authorization": "Basic one"}, {"Authorization": "one"}):
        for path in ("/v1/fill-mask", "/v1/nonsense", "/info", "/v1/models"):
            response = server.ask("GET", path, headers=headers)
            assert_error(response, "invalid_api_key")
            assert response.headers["www-authenticate"] == "Bearer"
    for key in ("one", "two"):
        response = server.post("/v1/fill-mask", {"inputs": "a"}, headers={"Authorization": f"Bearer {key}"})
        assert response.status_code == 200
    for path in ("/", "/health", "/ready", "/docs", "/openapi.json"):
        assert server.ask("GET", path).status_code == 200


def test_health_ready_info_and_models_tell_what_is_here(server):
    assert server.ask("GET", "/health").json() == {"status": "ok"}
    assert set(server.ask("GET", "/ready").json()["heads"].values()) == {"ready"}
    info = server.ask("GET", "/info").json()
    assert info["version"] == "1.2.3"
    assert [head["task"] for head in info["heads"]] == list(ALL_HEADS)
    assert info["heads"][0]["model"] == "models/fill-mask", "no more of the server's paths than a name"
    assert info["heads"][0]["details"] == {"max_position_embeddings": 4096}
    models = server.ask("GET", "/v1/models").json()
    assert [model["id"] for model in models["data"]] == list(ALL_HEADS)


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_only_what_is_written_in_a_page_runs_in_it(server, path):
    response = server.ask("GET", path)
    policy = response.headers["content-security-policy"]
    assert "unsafe" not in policy
    for tag, source in (("script", "script-src"), ("style", "style-src")):
        inside = response.text.split(f"<{tag}>")[1].split(f"</{tag}>")[0]
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{source} 'sha256-{digest}'" in policy


def test_however_many_ask_whether_the_server_is_ready_each_head_is_asked_once(server):
    for _ in range(5):
        assert server.ask("GET", "/ready").status_code == 200
    assert [len(head.calls) for head in server.heads.values()] == [1] * len(ALL_HEADS)


@pytest.mark.parametrize("path", ["/", "/health", "/ready", "/docs", "/openapi.json"])
def test_head_is_get_without_a_body(server, path):
    got, head = server.ask("GET", path), server.ask("HEAD", path)
    assert (head.status_code, head.content) == (got.status_code, b"")
    assert head.headers["content-length"] == got.headers["content-length"]


def test_a_path_with_a_slash_too_many_is_404_and_no_redirect_to_a_host_that_the_client_named(server):
    for path in ("/v1/fill-mask/", "/health/"):
        response = server.ask("POST", path, json={"inputs": "a"}, headers={"Host": "evil.example"})
        assert (response.status_code, response.headers.get("location")) == (404, None)


def test_a_head_that_does_not_answer_makes_the_server_not_ready(server):
    server.heads["fill-mask"].failure = ServingError("head_unavailable", "no replica")
    server.heads["question-answering"].is_asleep = True
    response = server.ask("GET", "/ready")
    assert_error(response, "head_unavailable")
    assert response.json()["error"]["message"] == "fill-mask: no replica"
    assert server.heads["question-answering"].calls == [], "a sleeping head is not woken by a probe"
    assert server.ask("GET", "/info").json()["heads"][0]["ready"] is False


def test_only_named_origins_may_call_from_a_page():
    headers = {"Origin": "https://a.example"}
    assert "access-control-allow-origin" not in Server().ask("GET", "/health", headers=headers).headers
    server = Server(cors_origins=("https://a.example",))
    assert server.ask("GET", "/health", headers=headers).headers["access-control-allow-origin"] == "https://a.example"
    asked = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "x-stainless-lang,authorization",
    }
    preflight = server.ask("OPTIONS", "/v1/completions", headers={**headers, **asked})
    assert preflight.status_code == 200
    assert "x-stainless-lang" in preflight.headers["access-control-allow-headers"], "openai-js sends it"
    other = server.ask("GET", "/health", headers={"Origin": "https://b.example"})
    assert "access-control-allow-origin" not in other.headers


def test_a_given_request_id_goes_along_unless_it_is_unfit_for_a_log(server):
    server.post("/v1/fill-mask", {"inputs": "a"}, headers={"X-Request-ID": "mine-1"})
    assert server.heads["fill-mask"].calls[-1][1]["request_id"] == "mine-1"
    server.post("/v1/fill-mask", {"inputs": "a"}, headers={"X-Request-ID": "a b\tc" * 50})
    assert len(server.heads["fill-mask"].calls[-1][1]["request_id"]) == 32


def test_paths_that_are_not_heads_do_not_grow_the_metrics(server):
    for path in ("/v1/a", "/b", "/health"):
        server.ask("GET", path)
    assert {head for head, _, _ in server.metrics.requests} == {"other"}


def test_a_completion_has_openai_s_shape(server):
    body = {"model": "text-generation", "prompt": ["a", "b"], "max_tokens": 5, "seed": 7, "stop": "x", "logprobs": 1}
    answer = server.post("/v1/completions", body).json()
    assert answer["object"] == "text_completion"
    assert answer["usage"]["total_tokens"] == 3
    method, call, _ = server.heads["text-generation"].calls[-1]
    assert method == "complete"
    assert call["prompts"] == ["a", "b"]
    assert call["options"] == {"max_new_tokens": 5, "temperature": 1.0, "top_p": 1.0, "seed": 7, "stop": ("x",),
                               "logprobs": True}  # fmt: skip


CHOICE = {"index": 0, "text": "x", "logprobs": None, "finish_reason": None}
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


def sent_lines(response: httpx.Response) -> list[str]:
    return [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]


def test_a_streamed_completion_is_events_then_done(server):
    head = server.heads["text-generation"]
    head.events = [{"choices": [CHOICE]}, {"choices": [{**CHOICE, "finish_reason": "stop"}]}, {"usage": USAGE}]
    body = {"model": "text-generation", "prompt": "a", "stream": True, "stream_options": {"include_usage": True}}
    response = server.post("/v1/completions", body)
    assert response.headers["content-type"].startswith("text/event-stream")
    *lines, done = sent_lines(response)
    assert done == "[DONE]"
    chunks = [json.loads(line) for line in lines]
    assert [chunk["choices"] for chunk in chunks] == [[CHOICE], [{**CHOICE, "finish_reason": "stop"}], []]
    assert [chunk["usage"] for chunk in chunks] == [None, None, USAGE]
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert head.closed_streams == 1


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
    assert json.loads(lines[-1])["error"]["type"] == "head_unavailable"
    assert "[DONE]" not in lines
    assert server.metrics.requests[-1] == ("text-generation", 200, "head_unavailable")


def test_a_stream_with_a_defect_ends_with_an_error_event_that_tells_nothing(server):
    server.heads["text-generation"].events = [{"choices": [CHOICE]}, RuntimeError("secret path /srv/x")]
    response = server.post("/v1/completions", {"model": "text-generation", "prompt": "a", "stream": True})
    assert json.loads(sent_lines(response)[-1])["error"]["type"] == "internal"
    assert "/srv" not in response.text


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": "a", "frequency_penalty": 1}, "frequency_penalty"),
        ({"prompt": "a", "suffix": "x"}, "suffix"),
        ({"prompt": "a", "logit_bias": {"1": 2}}, "logit_bias"),
        ({"prompt": "a", "logprobs": 5}, "logprobs"),
        ({"prompt": "a", "n": 2, "best_of": 3}, "best_of"),
        ({"prompt": ""}, "prompt"),
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


def test_a_head_is_found_among_the_models_and_text_generation_says_where_it_is(server):
    assert server.ask("GET", "/v1/models/fill-mask").json()["id"] == "fill-mask"
    assert_error(server.ask("GET", "/v1/models/gpt"), "unknown_head", "model")
    told = server.post("/v1/text-generation", {"inputs": "a"}).json()["error"]["message"]
    assert "text is generated at /v1/completions" in told
    refused = server.post("/v1/completions", {"model": "text-generation", "prompt": "a", "presence_penalty": 1})
    assert refused.json()["error"]["message"] == "presence_penalty: not served; leave it out or send 0"


def test_an_embedding_that_fails_names_the_field_of_its_own_request(server):
    server.heads["feature-extraction"].failure = ServingError("invalid_input", "empty", param="inputs.1")
    response = server.post("/v1/embeddings", {"model": "feature-extraction", "input": ["a", ""]})
    assert_error(response, "invalid_input", "input.1")


def test_the_document_describes_every_error_with_an_example(server):
    document = server.ask("GET", "/openapi.json").json()
    for path in ("/v1/fill-mask", "/v1/completions", "/v1/embeddings"):
        answers = document["paths"][path]["post"]["responses"]
        assert set(answers) >= {"200", "400", "401", "408", "413", "415", "422", "429", "500", "503", "504"}
        assert ("404" in answers) == (path in ("/v1/completions", "/v1/embeddings"))
        for status, answer in answers.items():
            if status != "200":
                for example in answer["content"]["application/json"]["examples"].values():
                    assert set(example["value"]["error"]) == {"type", "message", "param"}


def test_the_document_names_headers_and_asks_for_a_key_only_where_one_is_needed(server):
    document = server.ask("GET", "/openapi.json").json()
    asked = document["paths"]["/v1/fill-mask"]["post"]
    assert [parameter["name"] for parameter in asked["parameters"]] == ["X-Request-Timeout-Seconds", "X-Request-ID"]
    told = server.post("/v1/fill-mask", {"inputs": "a [MASK]"}).headers
    assert all(name in told for name in asked["responses"]["200"]["headers"])
    assert "security" not in asked
    guarded = Server(keys=ApiKeys(["one"])).ask("GET", "/openapi.json").json()
    assert "security" in guarded["paths"]["/v1/fill-mask"]["post"]


def test_every_answer_s_example_fits_its_schema(server):
    import jsonschema

    document = server.ask("GET", "/openapi.json").json()
    for name, schema in document["components"]["schemas"].items():
        for example in schema.get("examples", ()):
            jsonschema.validate(example, {**schema, "components": document["components"]})
        if name in ("Candidate", "Entity", "LabelScore", "Answer", "Choice", "TextScore", "Completion", "Embeddings"):
            assert schema["examples"], name


def test_an_unknown_kind_of_error_cannot_be_raised():
    with pytest.raises(KeyError):
        ServingError("made_up", "x")


def test_errors_cross_a_process_border_unchanged():
    error = ServingError("overloaded", "full", param="inputs", retry_after_s=3.5, busy_s=0.125)
    assert vars(ServingError.from_wire(error.to_wire())) == vars(error)
