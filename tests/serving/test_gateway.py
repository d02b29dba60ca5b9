"""serving.http.gateway below Ray: routes, shapes, keys and the whole error table, with heads of a few lines."""

import base64
import hashlib
import struct

import pytest
from error_bodies import error_in
from serving_fakes import FACTS, INPUTS, RECORDS, Server, assert_error, body

from serving.errors import ERROR_TABLE, ServingError
from serving.http.edge.auth import ApiKeys
from serving.settings import ALL_HEADS


@pytest.mark.parametrize("task", RECORDS)
def test_one_input_is_answered_bare_and_a_list_with_a_list(server, task):
    one = server.post(f"/v1/{task}", body(task, INPUTS[task]))
    two = server.post(f"/v1/{task}", body(task, [INPUTS[task]] * 2))
    assert (one.status_code, two.status_code) == (200, 200), one.text
    always_list = task in ("text-classification", "feature-extraction")
    assert two.json() == (one.json() * 2 if always_list else [one.json()] * 2)
    assert one.headers["x-num-tokens"] == "7"
    assert two.headers["x-num-windows"] == "4"
    assert "tokenize;dur=1.00" in one.headers["server-timing"]


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
    ("task", "parameters", "options"),
    [
        ("token-classification", {"aggregation_strategy": "first", "ignore_labels": ["O", "X"], "stride": 3},
         {"aggregation_strategy": "first", "ignore_labels": ("O", "X"), "window_overlap": 3}),
        ("text-classification", {"top_k": 1, "function_to_apply": "sigmoid", "return_windows": True},
         {"top_k": 1, "function_to_apply": "sigmoid", "return_windows": True}),
        ("zero-shot-classification", {"candidate_labels": ["a", "b"], "multi_label": True},
         {"candidate_labels": ("a", "b"), "multi_label": True}),
        ("feature-extraction", {"truncate": True, "truncation_direction": "Left", "dimensions": 1},
         {"on_long": "truncate", "truncation_side": "left"}),
        ("masked-lm-scoring", {"return_tokens": True, "on_long": "error"}, {"return_tokens": True, "on_long": "error"}),
        ("question-answering", {"align_to_words": False, "top_k": 3, "doc_stride": 5, "max_answer_len": 4,
         "max_question_len": 9, "max_seq_len": 64, "handle_impossible_answer": True},
         {"align_to_words": False, "top_k": 3, "window_overlap": 5, "max_answer_len": 4, "max_question_len": 9,
          "max_length": 64, "allow_no_answer": True}),
        ("fill-mask", {"targets": ["a", "b"], "top_k": 2}, {"targets": ("a", "b"), "top_k": 2}),
    ],
)  # fmt: skip
def test_parameters_reach_the_head_under_the_library_names(server, task, parameters, options):
    assert server.post(f"/v1/{task}", {"inputs": INPUTS[task], "parameters": parameters}).status_code == 200
    assert server.heads[task].calls[-1][1]["options"] == options


@pytest.mark.parametrize(
    ("task", "parameters", "param", "message"),
    [
        ("feature-extraction", {"prompt_name": "query"}, "parameters.prompt_name", "not served; put the prompt before"),
        ("feature-extraction", {"truncate": True, "on_long": "error"}, "parameters", "another name for on_long"),
        ("feature-extraction", {"dimensions": 3}, "dimensions", "the model's vectors have 2"),
        ("token-classification", {"stride": 1, "window_overlap": 2}, "parameters", "another name for window_overlap"),
        ("zero-shot-classification", {}, "parameters.candidate_labels", "Field required"),
        ("zero-shot-classification", {"candidate_labels": ["a"] * 101}, "parameters.candidate_labels", "at most 100"),
        ("zero-shot-classification", {"candidate_labels": ","}, "parameters.candidate_labels", "at least 1"),
        ("fill-mask", {"targets": []}, "parameters.targets", "at least 1"),
        ("fill-mask", {"return_windows": True}, "parameters.return_windows", "unknown field"),
    ],
)
def test_a_parameter_that_cannot_be_applied_is_refused_by_name(server, task, parameters, param, message):
    response = server.post(f"/v1/{task}", {"inputs": INPUTS[task], "parameters": parameters})
    assert_error(response, "invalid_input", param)
    assert message in error_in(response.json())["message"]


def test_labels_times_texts_are_bounded_before_anything_is_tokenized():
    server = Server(max_characters_per_request=100)
    asked = {"inputs": "a" * 30, "parameters": {"candidate_labels": ["x", "y", "z", "w"]}}
    assert_error(server.post("/v1/zero-shot-classification", asked), "invalid_input", "inputs")
    assert server.heads["zero-shot-classification"].calls == []


def test_feature_extraction_takes_its_parameters_beside_the_inputs_too(server):
    server.post("/v1/feature-extraction", {"inputs": "a", "normalize": True})
    assert server.heads["feature-extraction"].calls[-1][1]["options"] == {"normalize": True}
    twice = {"inputs": "a", "normalize": True, "parameters": {"normalize": False}}
    assert "send it once" in error_in(server.post("/v1/feature-extraction", twice).json())["message"]
    packed = server.post("/v1/feature-extraction", {"inputs": "a", "encoding_format": "base64", "dimensions": 1})
    assert packed.json() == [base64.b64encode(struct.pack("<f", 0.25)).decode()]


def test_windows_come_with_the_answer_they_make(server):
    """An answer that is a list has no room for them: it becomes an object."""
    made = {
        "text-classification": {"labels": RECORDS["text-classification"]["labels"]},
        "question-answering": {"answers": [RECORDS["question-answering"]]},
        "feature-extraction": {"embedding": [0.5, 0.5]},
        "masked-lm-scoring": {"nll": 1.0},
    }
    for task, told in made.items():
        windows = [{"start": 0, "end": 6, **told}]
        server.heads[task].record = {**RECORDS[task], "windows": windows}
        answer = server.post(f"/v1/{task}", {"inputs": INPUTS[task], "parameters": {"return_windows": True}}).json()
        if isinstance(answer, list):
            (answer,) = answer
        assert answer["windows"] == windows
        assert {name: answer[name] for name in RECORDS[task]} == RECORDS[task]


def test_an_unknown_head_is_404_and_lists_those_there():
    server = Server(["fill-mask", "question-answering"])
    for path in ("/v1/token-classification", "/v1/nonsense", "/v1/completions", "/v1/embeddings"):
        response = server.post(path, {"inputs": "a"})
        assert_error(response, "unknown_head")
        assert "fill-mask, question-answering" in error_in(response.json())["message"]
    assert_error(server.ask("GET", "/nowhere"), "not_found")


def test_a_wrong_method_is_405_and_names_the_right_one(server):
    response = server.ask("GET", "/v1/fill-mask")
    assert_error(response, "method_not_allowed")
    assert response.headers["allow"] == "POST"


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
    assert info["heads"][0]["details"]["max_position_embeddings"] == 4096
    models = server.ask("GET", "/v1/models").json()
    assert {model["id"] for model in models["data"]} == set(ALL_HEADS)


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
    assert error_in(response.json())["message"] == "fill-mask: no replica"
    assert server.heads["question-answering"].calls == [], "a sleeping head is not woken by a probe"
    heads = {head["name"]: head for head in server.ask("GET", "/info").json()["heads"]}
    assert (heads["fill-mask"]["ready"], heads["fill-mask"]["state"]) == (False, "no replica")
    assert (heads["question-answering"]["ready"], heads["question-answering"]["state"]) == (False, "asleep")


def test_a_head_of_a_pool_that_cannot_be_loaded_leaves_the_server_ready_and_info_says_why(server):
    server.heads["fill-mask"].answers["describe"] = {"details": {"loaded": False, "error": "no weights"}}
    assert server.ask("GET", "/ready").json()["heads"]["fill-mask"] == "cannot be loaded"
    told = server.ask("GET", "/info").json()["heads"][0]
    assert (told["name"], told["state"], told["details"]["error"]) == ("fill-mask", "cannot be loaded", "no weights")


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


def test_an_unknown_kind_of_error_cannot_be_raised():
    with pytest.raises(KeyError):
        ServingError("made_up", "x")


def test_errors_cross_a_process_border_unchanged():
    error = ServingError("overloaded", "full", param="inputs", retry_after_s=3.5, busy_s=0.125)
    assert vars(ServingError.from_wire(error.to_wire())) == vars(error)


@pytest.mark.parametrize(
    ("method", "path", "sent"),
    [
        ("GET", "/v1/files", {}),
        ("POST", "/v1/files", {"files": {"file": b"{}"}}),
        ("GET", "/v1/files/file-1/content", {}),
        ("POST", "/v1/batches", {"json": {}}),
        ("POST", "/v1/batches/batch_1/cancel", {}),
    ],
)
def test_files_and_batches_without_their_setting_are_refused_with_its_name(server, method, path, sent):
    answer = server.ask(method, path, **sent)
    assert answer.status_code == 404
    assert "batches: {storage: DIR}" in answer.json()["error"]["message"]
