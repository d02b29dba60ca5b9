"""Heads of a few lines, for tests of the gateway and of the playground below Ray."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
from error_bodies import error_in

from serving.errors import ERROR_TABLE
from serving.http.edge.auth import ApiKeys
from serving.http.error_response import speaks_openai
from serving.http.gateway import create_app
from serving.http.routing.routes import routes_to
from serving.settings import ALL_HEADS, GatewayArguments, HeadArguments

FACTS = {"num_tokens": 7, "num_windows": 2, "truncated": False}
RECORDS: dict[str, dict[str, Any]] = {
    "fill-mask": {"masks": [{"position": 2, "candidates": [{"token": 5, "token_str": " b", "score": 0.5}]}]},
    "token-classification": {
        "entities": [{"entity_group": "PER", "score": 0.9, "word": "Marcus", "text": "Marcus", "start": 0, "end": 6}]
    },
    "text-classification": {"labels": [{"label": "good", "score": 0.8}, {"label": "bad", "score": 0.2}]},
    "zero-shot-classification": {"labels": [{"label": "travel", "score": 0.6}, {"label": "food", "score": 0.4}]},
    "multiple-choice": {"choices": [0.1, 0.9], "best": 1},
    "question-answering": {"answer": "Rome", "score": 0.7, "start": 3, "end": 7},
    "feature-extraction": {"embedding": [0.25, -1.0]},
    "masked-lm-scoring": {"nll": 1.5, "pseudo_perplexity": 4.4816},
}
INPUTS: dict[str, Any] = {
    "fill-mask": "a [MASK] c",
    "token-classification": "Marcus spoke",
    "text-classification": {"text": "a", "text_pair": "b"},
    "zero-shot-classification": "a text",
    "multiple-choice": {"prompt": "p", "choices": ["a", "b"]},
    "question-answering": {"question": "q", "context": "in Rome"},
    "feature-extraction": "a text",
    "masked-lm-scoring": "a text",
}
# What a task cannot do without.
PARAMETERS: dict[str, Any] = {"zero-shot-classification": {"candidate_labels": ["travel", "food"]}}


def body(task: str, inputs: Any) -> dict[str, Any]:
    return {"inputs": inputs, **({"parameters": PARAMETERS[task]} if task in PARAMETERS else {})}


class FakeHead:
    """Answers every input with the same record, or with the failure it was given."""

    def __init__(self, task: str, name: str = "") -> None:
        self.name = name or task
        self.task = task
        self.record = RECORDS.get(task, {})
        self.labels: tuple[str, ...] = ("good", "bad")
        self.answers: dict[str, dict[str, Any]] = {}
        self.calls: list[tuple[str, dict[str, Any], float]] = []
        self.failure: Exception | None = None
        self.events: list[dict[str, Any] | Exception] = []
        self.delay_s = 0.0
        self.is_asleep = False
        self.closed_streams = 0

    async def call(self, method: str, request: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        self.calls.append((method, request, timeout_s))
        await asyncio.sleep(self.delay_s)
        if self.failure is not None:
            raise self.failure
        if method in self.answers:
            return self.answers[method]
        if method == "describe":
            return {"details": {"max_position_embeddings": 4096, "labels": list(self.labels)}}
        if method == "relevance":
            scores = [0.1 * (index + 1) for index in range(len(request["documents"]))]
            results = [{"score": score, "start": 0, "end": 1} for score in scores]
            return {"results": results, "records": [FACTS] * len(results), "timings_s": {"tokenize": 0.001}}
        if method == "complete":
            choice = {"index": 0, "text": " there", "logprobs": None, "finish_reason": "length"}
            usage = {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3}
            return {"choices": [choice], "usage": usage}
        records = [{**self.record, **FACTS} for _ in request["inputs"]]
        return {"records": records, "timings_s": {"tokenize": 0.001}}

    async def stream(self, method: str, request: dict[str, Any], *, timeout_s: float) -> AsyncIterator[dict[str, Any]]:
        self.calls.append((method, request, timeout_s))
        try:
            for event in self.events:
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            self.closed_streams += 1

    def outage(self) -> str | None:
        return None

    def asleep(self) -> bool:
        return self.is_asleep


class RecordedMetrics:
    def __init__(self) -> None:
        self.requests: list[tuple[str, int, str | None]] = []
        self.comparisons: list[tuple[str, str, str, float | None]] = []

    def request(self, head: str, status: int, seconds: float, error_kind: str | None) -> None:
        assert seconds >= 0
        self.requests.append((head, status, error_kind))

    def compared(self, head: str, shadow: str, outcome: str, difference: float | None) -> None:
        self.comparisons.append((head, shadow, outcome, difference))

    def in_flight(self, num_requests: int) -> None:
        assert num_requests >= 0


class Server:
    """The application with its fakes, and one blocking way to ask it something.

    tasks: the tasks, a head each, or names with fields of HeadArguments.
    """

    def __init__(self, tasks=ALL_HEADS, *, keys: ApiKeys | None = None, routes=(), **arguments: Any) -> None:
        heads = tasks if isinstance(tasks, dict) else {task: {"task": task} for task in tasks}
        self.heads = {name: FakeHead(head["task"], name) for name, head in heads.items()}
        self.metrics = RecordedMetrics()
        self.app = create_app(
            self.heads,
            head_arguments={
                name: HeadArguments(checkpoint=f"/srv/models/{name}", **head) for name, head in heads.items()
            },
            arguments=GatewayArguments(**arguments),
            keys=keys or ApiKeys([]),
            versions={"bigbird-on-ray": "1.2.3"},
            metrics=self.metrics,
            routes=routes_to(self.heads, dict(routes), self.metrics.compared),
            defaults=frozenset(name for name, named in {**heads, **dict(routes)}.items() if dict(named).get("default")),
        )

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def main() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, **options)

        return asyncio.run(main())

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        return self.ask("POST", path, json=body, **options)


def assert_error(response: httpx.Response, kind: str, param: str | None = None) -> None:
    """The response is a failure of this kind, in the body that its path's clients read."""
    body, row, path = response.json(), ERROR_TABLE[kind], response.request.url.path
    error = error_in(body)
    if speaks_openai(path):
        assert response.status_code == (row.openai_status or row.status), response.text
        assert set(error) == {"message", "type", "param", "code"}
        assert (error["type"], error["param"]) == (row.openai_type, param), error
        assert kind == "invalid_input" or error["code"] == row.openai_code, error
    else:
        assert response.status_code == row.status, response.text
        if path == "/v1/text-generation" and kind == "invalid_input":
            kind = "validation"  # by which huggingface_hub chooses its exception
        assert (error["type"], error["param"]) == (kind, param), error
        assert ("message" in body) == path.endswith("/rerank"), "Cohere's"
    assert error["message"]
