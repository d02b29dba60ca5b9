"""/v1/completions, /v1/embeddings and /v1/models: OpenAI's endpoints over the same heads.

It knows OpenAI's bodies and server-sent events; how text is generated is the replica's business.
"""

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from serving.errors import ServingError
from serving.http.apis import vectors
from serving.http.apis.event_streams import event_stream
from serving.http.apis.json_bodies import json_answer
from serving.http.apis.openai_schemas import (
    MAX_EMBEDDED,
    Completion,
    CompletionRequest,
    Embeddings,
    EmbeddingsRequest,
    Model,
    ModelList,
)
from serving.http.apis.tasks import TASKS
from serving.http.error_handlers import COMPUTED, responses
from serving.http.limits import COST_HEADERS, REQUEST_HEADERS, check_size, cost_headers, time_limit_s
from serving.http.routing.heads import Head
from serving.http.routing.models import Models
from serving.http.routing.routes import Route
from serving.settings import EMBEDDING, GENERATION, GatewayArguments

# Beside the paths of tasks.
_PATHS = {GENERATION: ("completions",), EMBEDDING: ("embeddings",)}


def add_routes(router: APIRouter, models: Models, arguments: GatewayArguments) -> None:
    """Adds /models, and the endpoints whose heads are served here."""

    @router.get(
        "/models",
        tags=["openai"],
        summary="The heads as models.",
        responses=responses("invalid_api_key", path="/v1/models"),
    )
    async def listed() -> ModelList:
        # A client's documentation takes the first one and completes with it.
        data = [_model(head) for head in models.named]
        return ModelList(object="list", data=sorted(data, key=lambda model: model.task != GENERATION))

    @router.get("/models/{model}", tags=["openai"], summary="One head as a model.",
                responses=responses("invalid_api_key", "unknown_head", path="/v1/models/NAME"))  # fmt: skip
    async def retrieve(model: str) -> Model:
        return _model(models.find(model))

    if models.serves(GENERATION):
        _add_completions(router, models, arguments)
    if models.serves(EMBEDDING):
        add_embeddings(router, models, arguments)


def _add_completions(router: APIRouter, models: Models, arguments: GatewayArguments) -> None:
    @router.post(
        "/completions",
        tags=["openai"],
        summary="Continue a text, at once or as server-sent events.",
        response_model=None,
        responses={
            200: {"model": Completion, "content": {"text/event-stream": {}}},
            **responses(*COMPUTED, "unknown_head", path="/v1/completions"),
        },
        openapi_extra=REQUEST_HEADERS,
    )
    async def completions(body: CompletionRequest, request: Request) -> Response:
        head = models.pick(request, GENERATION, body.model)
        prompts = body.prompts
        n = body.n or 1
        best_of = body.best_of or n
        body.check()
        check_size(prompts, arguments, "prompt", copies=best_of)
        call = {
            "prompts": prompts,
            "n": n,
            "best_of": best_of,
            "echo": bool(body.echo),
            "options": body.options(),
            "request_id": request.state.request_id,
        }
        timeout_s = time_limit_s(request, arguments)
        frame = {
            "id": f"cmpl-{request.state.request_id}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": head.name,
        }
        if not body.stream:
            outcome = await head.call("complete", call, timeout_s=timeout_s)
            request.state.num_tokens = outcome["usage"]["total_tokens"]
            answer = {**frame, "choices": outcome["choices"], "usage": outcome["usage"]}
            return await json_answer(request, lambda: answer, {}, source=answer)
        events = head.stream("stream", call, timeout_s=timeout_s)
        with_usage = body.stream_options is not None and bool(body.stream_options.include_usage)

        def chunks(event: dict[str, Any]) -> Iterator[dict[str, Any]]:
            if "usage" not in event:
                # One choice each, as OpenAI does: its clients read no second one.
                for choice in event["choices"]:
                    yield {**frame, "choices": [choice], **({"usage": None} if with_usage else {})}
                return
            request.state.num_tokens = event["usage"]["total_tokens"]
            if with_usage:
                yield {**frame, "choices": [], "usage": event["usage"]}

        return await event_stream(request, events, chunks, end=b"data: [DONE]\n\n")


def add_embeddings(router: APIRouter, models: Models, arguments: GatewayArguments) -> None:
    """Adds /embeddings."""

    @router.post(
        "/embeddings",
        tags=["openai"],
        summary="One vector a text.",
        response_model=None,
        responses={
            200: {"model": Embeddings, "headers": COST_HEADERS},
            **responses(*COMPUTED, "unknown_head", path="/v1/embeddings"),
        },
        openapi_extra=REQUEST_HEADERS,
    )
    async def embeddings(body: EmbeddingsRequest, request: Request) -> Response:
        head = models.pick(request, EMBEDDING, body.model)
        inputs = body.inputs
        check_size(inputs, arguments, "input", most=MAX_EMBEDDED)
        call = {"inputs": inputs, "options": {}, "request_id": request.state.request_id}
        try:
            outcome = await head.call("score", call, timeout_s=time_limit_s(request, arguments))
        except ServingError as error:
            if error.param is not None and error.param.startswith("inputs"):
                # The client's own field, and no index where it sent one input.
                name = "input" if inputs[0] is body.input else "input" + error.param.removeprefix("inputs")
                message = error.message.replace(error.param, name, 1)
                raise ServingError(error.kind, message, param=name) from None
            raise
        records = outcome["records"]
        make = partial(_embeddings, head.name, body, records)
        return await json_answer(request, make, cost_headers(request, outcome), source=records)


def _model(head: Head | Route) -> Model:
    paths = [f"/v1/{name}" for name in _PATHS.get(head.task, ())]
    if head.task in TASKS:
        paths += [f"/v1/{head.task}", f"/v1/models/{head.name}/{head.task}"]
    return Model(id=head.name, object="model", created=0, owned_by="bigbird-on-ray", task=head.task, paths=paths)


def _embeddings(model: str, body: EmbeddingsRequest, records: list[dict[str, Any]]) -> dict[str, Any]:
    encode = vectors.base64_of if body.encoding_format == "base64" else list
    data = []
    for index, record in enumerate(records):
        # Of length 1, as OpenAI documents its embeddings, so that a dot product ranks as the cosine does.
        vector = vectors.of_unit_length(vectors.shortened(record["embedding"], body.dimensions, unit=False))
        data.append({"object": "embedding", "index": index, "embedding": encode(vector)})
    num_tokens = sum(record["num_tokens"] for record in records)
    usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
    return {"object": "list", "data": data, "model": model, "usage": usage}
