"""/embed, /embed_all, /predict, /tokenize and /decode: text-embeddings-inference's endpoints over the same heads.

It knows the bodies; the records are the library's.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from serving.errors import ServingError
from serving.http.answers import LabelScore
from serving.http.apis import vectors
from serving.http.apis.json_bodies import json_answer
from serving.http.apis.parameters import TRUNCATE, in_clients_words
from serving.http.apis.tei_schemas import (
    DecodeRequest,
    EmbedAllRequest,
    EmbedRequest,
    PredictRequest,
    Token,
    TokenizeRequest,
)
from serving.http.apis.wire import MAX_INPUTS
from serving.http.error_handlers import COMPUTED, responses
from serving.http.limits import COST_HEADERS, REQUEST_HEADERS, check_size, cost_headers, time_limit_s
from serving.http.routing.heads import Head
from serving.http.routing.models import Models, model_in_path
from serving.settings import EMBEDDING, GatewayArguments

CLASSIFICATION = "text-classification"


def add_routes(router: APIRouter, models: Models, arguments: GatewayArguments) -> None:
    """Adds the endpoints; without the head that it needs, each says so."""

    def head_for(request: Request, task: str, model: str | None) -> Head:
        models.need(task, f"this needs a {task} head")
        return models.pick(request, task, model)

    async def scored(request: Request, head: Head, inputs: list[Any], options: dict[str, Any]) -> dict[str, Any]:
        check_size(inputs, arguments, most=MAX_INPUTS)
        call = {"inputs": inputs, "options": options, "request_id": request.state.request_id}
        try:
            return await head.call("score", call, timeout_s=time_limit_s(request, arguments))
        except ServingError as error:
            raise in_clients_words(error, TRUNCATE) from None

    async def embed(body: EmbedRequest, request: Request) -> Response:
        head = head_for(request, EMBEDDING, body.model)
        outcome = await scored(request, head, body.texts, body.options())
        make = partial(_embedded, outcome["records"], body)
        return await json_answer(request, make, cost_headers(request, outcome), source=outcome["records"])

    async def embed_all(body: EmbedAllRequest, request: Request) -> Response:
        head = head_for(request, EMBEDDING, body.model)
        outcome = await scored(request, head, body.texts, {**body.options(), "pooling": "none"})
        make = partial(_named, outcome["records"], "token_embeddings")
        return await json_answer(request, make, cost_headers(request, outcome))

    async def predict(body: PredictRequest, request: Request) -> Response:
        head = head_for(request, CLASSIFICATION, body.model)
        outcome = await scored(request, head, body.examples, body.options())
        labels = _named(outcome["records"], "labels")
        answer = labels[0] if body.single else labels
        return await json_answer(request, lambda: answer, cost_headers(request, outcome), source=answer)

    def tokenizing(request: Request, model: str | None) -> Head:
        """A model by its name or its path; else the embeddings, else the first head."""
        asked = model_in_path(request) or model
        if asked is None:
            task = EMBEDDING if models.serves(EMBEDDING) else next(iter(models)).task
        else:
            task = asked if models.serves(asked) else models.find(asked).task
        head = models.pick(request, task, model)
        request.state.path_decides = model_in_path(request) is not None
        return head

    async def tokenize(body: TokenizeRequest, request: Request) -> Response:
        texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
        check_size(texts, arguments, most=MAX_INPUTS)
        call = {"inputs": texts, "add_special_tokens": body.add_special_tokens is not False}
        head = tokenizing(request, body.model)
        outcome = await head.call("tokenize", call, timeout_s=time_limit_s(request, arguments))
        return await json_answer(request, lambda: outcome["tokens"], {})

    async def decode(body: DecodeRequest, request: Request) -> Response:
        ids = [body.ids] if isinstance(body.ids[0], int) else body.ids
        check_size(ids, arguments, "ids", most=MAX_INPUTS)
        call = {"ids": ids, "skip_special_tokens": body.skip_special_tokens is not False}
        head = tokenizing(request, body.model)
        outcome = await head.call("decode", call, timeout_s=time_limit_s(request, arguments))
        return await json_answer(request, lambda: outcome["texts"], {})

    for endpoint, summary, answer, headers in (
        (embed, "One vector a text.", list[list[float]], COST_HEADERS),
        (embed_all, "One vector a token.", list[list[list[float]]], COST_HEADERS),
        (predict, "Labels of texts or pairs.", list[LabelScore] | list[list[LabelScore]], COST_HEADERS),
        (tokenize, "The tokens of texts.", list[list[Token]], {}),
        (decode, "The texts of token ids.", list[str], {}),
    ):
        router.add_api_route(
            f"/{endpoint.__name__}",
            endpoint,
            methods=["POST"],
            summary=summary,
            response_model=None,
            responses={200: {"model": answer, "headers": headers}, **responses(*COMPUTED, "unknown_head")},
            openapi_extra=REQUEST_HEADERS,
            tags=["text-embeddings-inference"],
        )


def _named(records: list[dict[str, Any]], name: str) -> list[Any]:
    return [record[name] for record in records]


def _embedded(records: list[dict[str, Any]], body: EmbedRequest) -> list[list[float]]:
    unit = body.normalize is not False
    return [vectors.shortened(record["embedding"], body.dimensions, unit=unit) for record in records]
