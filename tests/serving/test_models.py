"""serving.http.routing.models and what the settings allow: several models a task, chosen by name, below Ray."""

import asyncio
import json
import math

import httpx
import pytest
from error_bodies import error_in
from pydantic import ValidationError
from serving_fakes import INPUTS, Server, assert_error

from serving.errors import ServingError
from serving.http.routing.models import task_at
from serving.http.routing.routes import distance
from serving.settings import RouteArguments, ServeArguments

NER = "token-classification"
BODY = {"inputs": INPUTS[NER]}
HEADS = {
    "first": {"task": NER},
    "legal": {"task": NER, "default": True},
    NER: {"task": NER},
    "words": {"task": "fill-mask"},
    "writer": {"task": "text-generation"},
    "poet": {"task": "text-generation"},
}


@pytest.fixture
def server() -> Server:
    return Server(HEADS)


def asked(server: Server) -> list[str]:
    """The heads that were called since the last look."""
    found = [name for name, head in server.heads.items() if head.calls]
    for head in server.heads.values():
        head.calls.clear()
    return found


@pytest.mark.parametrize(
    ("path", "model", "head"),
    [
        (f"/v1/{NER}", None, "legal"),
        (f"/v1/{NER}", "first", "first"),
        (f"/v1/{NER}", NER, NER),
        (f"/v1/models/first/{NER}", None, "first"),
        (f"/v1/models/first/{NER}", "first", "first"),
        ("/v1/fill-mask", "fill-mask", "words"),
    ],
)
def test_the_model_of_body_or_path_answers_and_counts_and_without_one_the_default(server, path, model, head):
    response = server.post(path, {**BODY, **({"model": model} if model else {})})
    assert response.status_code == 200, response.text
    assert asked(server) == [head]
    assert server.metrics.requests == [(head, 200, None)]


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/models/poet/completions"])
def test_openai_s_paths_choose_by_model_and_answer_with_its_name(server, path):
    for model in ("poet",) if "poet" in path else ("poet", "writer", "text-generation"):
        answer = server.post(path, {"model": model, "prompt": "a"}).json()
        assert answer["model"] == ("poet" if model == "poet" else "writer"), "a task's name is its default"
        assert asked(server) == [answer["model"]]


@pytest.mark.parametrize(
    ("path", "model", "said"),
    [
        (f"/v1/{NER}", "third", f"no model 'third'; for {NER} there are legal, first, {NER}"),
        (f"/v1/{NER}", "words", f"'words' is a model for fill-mask; for {NER} there are legal, first, {NER}"),
        (f"/v1/models/words/{NER}", None, f"'words' is a model for fill-mask; for {NER} there are"),
        (f"/v1/models/third/{NER}", None, f"no model 'third'; for {NER} there are"),
        ("/v1/completions", "gpt-4", "no model 'gpt-4'; for text-generation there are writer, poet"),
    ],
)
def test_a_model_that_is_not_here_or_of_another_task_is_refused_with_those_that_are(server, path, model, said):
    body = {"prompt": "a"} if path == "/v1/completions" else BODY
    response = server.post(path, {**body, **({"model": model} if model else {})})
    assert_error(response, "unknown_head", "model")
    assert said in error_in(response.json())["message"]
    assert asked(server) == []


def test_two_different_models_in_path_and_body_are_refused(server):
    response = server.post(f"/v1/models/first/{NER}", {**BODY, "model": "legal"})
    assert_error(response, "invalid_input", "model")


def test_the_list_begins_with_a_model_that_completes_and_says_what_each_one_s_paths_are(server):
    models = server.ask("GET", "/v1/models").json()["data"]
    assert {model["id"] for model in models} == set(HEADS)
    first = models[0]["id"]
    assert server.post("/v1/completions", {"model": first, "prompt": "a"}).status_code == 200
    for model in models:
        assert server.ask("GET", f"/v1/models/{model['id']}").json() == model
        for path in model["paths"]:
            body = {"prompt": "a"} if "completions" in path else {"inputs": INPUTS[model["task"]]}
            asked(server)
            assert server.post(path, {**body, "model": model["id"]}).status_code == 200
            assert asked(server) == [model["id"]]
    assert_error(server.ask("GET", "/v1/models/third"), "unknown_head", "model")


def test_ready_and_info_name_heads_and_failed_requests_count_under_the_head_they_asked(server):
    assert set(server.ask("GET", "/ready").json()["heads"]) == set(HEADS)
    info = server.ask("GET", "/info").json()["heads"]
    assert [(head["name"], head["task"]) for head in info] == [(name, head["task"]) for name, head in HEADS.items()]
    assert [head["name"] for head in info if head["default"]] == ["legal", "words", "writer"]
    server.metrics.requests.clear()
    for path in (f"/v1/{NER}", f"/v1/models/first/{NER}", f"/v1/models/third/{NER}"):
        server.post(path, {})
    assert server.metrics.requests == [(head, 422, "invalid_input") for head in ("legal", "first", "other")]


def test_the_proxy_repeats_a_refusal_only_where_the_path_alone_decides_who_refuses(server):
    for head in server.heads.values():
        head.failure = ServingError("overloaded", "full", retry_after_s=2, busy_s=0.1)
    told = {
        path: server.post(path, {"inputs": INPUTS[task]}).headers.get("x-bigbird-busy")
        for path, task in ((f"/v1/{NER}", NER), (f"/v1/models/first/{NER}", NER), ("/v1/fill-mask", "fill-mask"))
    }
    assert list(told.values()) == [None, "first 0.100", "words 0.100"]


def test_a_path_with_a_model_counts_for_its_task():
    assert task_at("/v1/models/legal/embeddings") == task_at("/v1/embeddings") == "feature-extraction"


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ("legal:fill-mask=a,legal:fill-mask=b", "'legal' is given 2 times"),
        ('{"fill-mask": "a", "fill-mask": "b"}', "'fill-mask' is given 2 times"),
        ({"gateway": {"task": NER, "checkpoint": "a"}}, "head 'gateway': that is the gateway's own name"),
        ({"a/b": {"task": NER, "checkpoint": "a"}}, "head 'a/b': a name has 1 to 63 letters, digits and .-_"),
        ({"": {"task": NER, "checkpoint": "a"}}, "head '': a name has"),
        ({"fill-mask": {"task": NER, "checkpoint": "a"}}, f"head fill-mask: its task is {NER}"),
        ({"legal": "a"}, "unknown head legal; the heads are fill-mask, "),
        ({"legal": {"task": "ner", "checkpoint": "a"}}, "head legal: unknown task 'ner'"),
        (
            {name: {"task": NER, "checkpoint": "a", "default": True} for name in "xy"},
            f"{NER} has 2 defaults, x, y; it can have one",
        ),
    ],
)
def test_heads_that_cannot_be_are_refused_by_name(heads, message):
    with pytest.raises(ValidationError) as caught:
        ServeArguments.model_validate({"heads": heads})
    assert message in str(caught.value)


def test_named_heads_come_from_pairs_json_and_mappings_alike():
    pairs = "legal:token-classification=a,fill-mask=b"
    mapping = {"legal": {"task": NER, "checkpoint": "a"}, "fill-mask": "b"}
    resolved = [
        ServeArguments.model_validate({"heads": heads}).resolved_heads()
        for heads in (pairs, mapping, json.dumps(mapping))
    ]
    assert resolved[0] == resolved[1] == resolved[2]
    assert {name: (head.task, head.checkpoint) for name, head in resolved[0].items()} == {
        "legal": (NER, "a"),
        "fill-mask": ("fill-mask", "b"),
    }


def test_a_route_gives_each_head_its_share_and_the_same_request_always_to_the_same_head():
    routes = {"ner": RouteArguments(split={"first": 80, "legal": 20, NER: 0}, default=True)}
    server = Server({name: {"task": NER} for name in ("first", "legal", NER)}, routes=routes)
    answered = [call_with_id(server, f"/v1/{NER}", f"r{number}") for number in range(300)]
    assert 210 <= answered.count("first") <= 270
    assert set(answered) == {"first", "legal"}
    assert [call_with_id(server, f"/v1/models/ner/{NER}", f"r{number}") for number in range(40)] == answered[:40]
    assert {head for head, _, _ in server.metrics.requests} == {"first", "legal"}
    info = server.ask("GET", "/info").json()["heads"]
    assert [head["default"] for head in info] == [True, True, False]
    assert "ner" in [model["id"] for model in server.ask("GET", "/v1/models").json()["data"]]


def call_with_id(server: Server, path: str, request_id: str) -> str:
    """The head that answers the request with this id."""
    assert server.post(path, BODY, headers={"X-Request-ID": request_id}).status_code == 200
    (name,) = asked(server)
    return name


def test_a_shadow_is_asked_too_and_what_it_says_or_fails_with_is_only_counted():
    route = {"ner": RouteArguments(split={"first": 1}, shadow="legal", default=True)}
    server = Server({name: {"task": NER} for name in ("first", "legal")}, routes=route)
    shadow = server.heads["legal"]

    async def ask() -> None:
        transport = httpx.ASGITransport(app=server.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            for delay_s, failure in (
                (0.0, None),
                (0.0, ServingError("overloaded", "full")),
                (0.0, OSError()),
                (60, None),
            ):
                shadow.delay_s, shadow.failure = delay_s, failure
                response = await client.post(f"/v1/{NER}", json=BODY)
                assert response.status_code == 200, "and at once, whatever the shadow does"
                await asyncio.sleep(0.05)

    asyncio.run(ask())
    assert len(shadow.calls) == 4
    outcomes = [outcome for _, _, outcome, _ in server.metrics.comparisons]
    assert outcomes == ["same", "overloaded", "internal"], "the last one was still at work"
    assert server.metrics.comparisons[0] == ("first", "legal", "same", 0.0)


@pytest.mark.parametrize(
    ("left", "right", "apart"),
    [
        ({"labels": [{"label": "a", "score": 0.5}]}, {"labels": [{"label": "a", "score": 0.75}]}, 0.25),
        ({"labels": [{"label": "a", "score": 0.5}]}, {"labels": [{"label": "b", "score": 0.5}]}, math.inf),
        ({"entities": []}, {"entities": [{"start": 1}]}, math.inf),
        ({"start": 1}, {"start": 2}, math.inf),
        ({"a": 1}, {"b": 1}, math.inf),
        ({"embedding": [0.0, -1.0, math.inf]}, {"embedding": [0.5, 1.0, math.inf]}, 2.0),
    ],
)
def test_records_lie_apart_by_their_numbers_unless_something_else_differs(left, right, apart):
    assert distance(left, right) == distance(right, left) == apart


@pytest.mark.parametrize(
    ("route", "message"),
    [
        ({"split": {"c": 1}}, "route r: no head 'c'; the heads are a, b, words, writer"),
        ({"split": {"a": 1, "words": 1}}, f"route r: a is for {NER}, words is for fill-mask"),
        ({"split": {"a": 0, "b": 0}}, "route r: the shares of split are all 0"),
        ({"split": {"a": -1}}, "greater than or equal to 0"),
        ({"split": {}}, "at least 1 item"),
        ({"split": {"a": 1}, "shadow": "a"}, "route r: shadow a has a share of the requests itself"),
        ({"split": {"writer": 1}, "shadow": "writer"}, "route r: shadow"),
    ],
)
def test_a_route_that_cannot_be_is_refused_by_name(route, message):
    heads = "a:token-classification=a,b:token-classification=b,words:fill-mask=c,writer:text-generation=d"
    with pytest.raises(ValidationError) as caught:
        ServeArguments.model_validate({"heads": heads, "routes": {"r": route}})
    assert message in str(caught.value)
    with pytest.raises(ValidationError, match="route a: something else has this name"):
        ServeArguments.model_validate({"heads": heads, "routes": {"a": {"split": {"b": 1}}}})


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"task": NER, "pool": "large"}, "head legal: no pool 'large'; the pools are small"),
        ({"task": NER, "pool": "small", "num_cpus": 2}, "head legal: num_cpus is for pool small to say"),
        ({"task": "text-generation", "pool": "small"}, "head legal: text-generation has a replica of its own"),
    ],
)
def test_a_head_that_cannot_be_in_a_pool_is_refused_by_name(head, message):
    pools = {"small": {"num_cpus": 0.5, "max_models": 9}}
    with pytest.raises(ValidationError) as caught:
        ServeArguments.model_validate({"heads": {"legal": {**head, "checkpoint": "a"}}, "pools": pools})
    assert message in str(caught.value)
    heads = {"legal": {"task": NER, "checkpoint": "a", "pool": "small"}}
    with pytest.raises(ValidationError, match="pool legal: something else has this name"):
        ServeArguments.model_validate({"heads": heads, "pools": {**pools, "legal": {}}})
    with pytest.raises(ValidationError, match="pool large: no head is in it"):
        ServeArguments.model_validate({"heads": heads, "pools": {**pools, "large": {}}})
    with pytest.raises(ValidationError, match=r"pools.small.max_models"):
        ServeArguments.model_validate({"heads": heads, "pools": {"small": {"max_models": 0}}})
    resolved = ServeArguments.model_validate({"heads": heads, "pools": pools, "head_defaults": {"dtype": "bfloat16"}})
    assert resolved.resolved_heads()["legal"].num_cpus == 0.5
    assert resolved.resolved_pools()["small"].dtype == "bfloat16"
