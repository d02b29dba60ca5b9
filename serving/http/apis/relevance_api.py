"""/rerank, /score and /similarity: how relevant documents are, by the heads that are here.

A text-classification head with one label is a cross-encoder: it reads the query with the document. Where there is none,
the feature-extraction head's vectors are compared. It knows the bodies; the scores are the replica's.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from serving.errors import ServingError
from serving.http.apis.json_bodies import json_answer
from serving.http.apis.parameters import TRUNCATE, in_clients_words
from serving.http.apis.relevance_schemas import (
    AnyRerankRequest,
    Reranked,
    RerankRequest,
    ScoredText,
    ScoreRequest,
    Scores,
    SimilarityRequest,
    TextsRequest,
)
from serving.http.apis.wire import MAX_INPUTS
from serving.http.error_handlers import COMPUTED, responses
from serving.http.limits import COST_HEADERS, REQUEST_HEADERS, check_size, cost_headers, time_limit_s
from serving.http.routing.heads import Head
from serving.http.routing.models import Models, model_in_path
from serving.settings import EMBEDDING, GatewayArguments

CROSS_ENCODER = "text-classification"


class Relevance:
    """Asks the head that a request wants, or the best there is."""

    def __init__(self, models: Models, arguments: GatewayArguments) -> None:
        self._models = models
        self._arguments = arguments
        # By name of a text-classification head, whether it has one label; a head's checkpoint never changes here.
        self._is_cross_encoder: dict[str, bool] = {}

    async def ask(
        self,
        request: Request,
        head: Head,
        queries: Sequence[str],
        documents: Sequence[str],
        names: tuple[str, str],
        *,
        truncate: bool | None = None,
        raw_scores: bool = False,
        whole: bool = False,
        max_document_tokens: int | None = None,
    ) -> dict[str, Any]:
        """The replica's results. names: what the client calls queries and documents, for errors."""
        every = queries if len(queries) == len(documents) else [queries[0]] * len(documents)
        # A cross-encoder reads the query with each document.
        check_size(list(zip(every, documents, strict=True)), self._arguments, names[1], most=MAX_INPUTS)
        call = {
            "queries": list(queries),
            "documents": list(documents),
            "options": {} if truncate is None else {"on_long": "truncate" if truncate else "error"},
            "raw_scores": raw_scores,
            "whole": whole,
            "max_document_tokens": max_document_tokens,
            "request_id": request.state.request_id,
        }
        try:
            return await head.call("relevance", call, timeout_s=time_limit_s(request, self._arguments))
        except ServingError as error:
            raise in_clients_words(_renamed(error, head.task, len(queries), names), TRUNCATE) from None

    async def head_for(self, request: Request, model: str | None) -> Head:
        """The head that the request names; else a cross-encoder, else the embeddings. Raises ServingError."""
        head = await self._head_for(request, model)
        # A body that names another model may well be answered while this one's head is full.
        request.state.path_decides = model_in_path(request) is not None
        return head

    async def _head_for(self, request: Request, model: str | None) -> Head:
        asked = model_in_path(request) or model
        if asked is None:
            for head in self._models:
                if head.task == CROSS_ENCODER and await self._reranks(head, request):
                    return self._models.pick(request, CROSS_ENCODER, head.name)
            self._models.need(EMBEDDING, _NEEDED)
            return self._models.pick(request, EMBEDDING)
        task = asked if asked in (CROSS_ENCODER, EMBEDDING) else self._models.find(asked).task
        self._models.need(task, _NEEDED)
        head = self._models.pick(request, task, model)
        if task == EMBEDDING or (task == CROSS_ENCODER and await self._reranks(head, request)):
            return head
        what = "it has several labels" if task == CROSS_ENCODER else f"it is for {task}"
        raise ServingError("unknown_head", f"{_NEEDED}; {asked[:100]!r} does not do: {what}", param="model")

    def embedding(self, request: Request, model: str | None) -> Head:
        self._models.need(EMBEDDING, f"this needs a {EMBEDDING} head")
        return self._models.pick(request, EMBEDDING, model)

    async def _reranks(self, head: Head, request: Request) -> bool:
        if head.name not in self._is_cross_encoder:
            told = await head.call("describe", {}, timeout_s=time_limit_s(request, self._arguments))
            self._is_cross_encoder[head.name] = len(told["details"].get("labels", ())) == 1
        return self._is_cross_encoder[head.name]


_NEEDED = f"this needs a {CROSS_ENCODER} head with one label or a {EMBEDDING} head"


def _renamed(error: ServingError, task: str, num_queries: int, names: tuple[str, str]) -> ServingError:
    """The error about the client's own field; the replica knows only inputs by number."""
    if error.param is None or not error.param.startswith("inputs."):
        return error
    number = int(error.param.split(".")[1])
    said = error.message.removeprefix(f"{error.param}: ")
    query, documents = names
    if task == EMBEDDING and number >= num_queries:
        param = f"{documents}.{number - num_queries}"
    elif task == EMBEDDING or said.startswith("text "):
        param = query if num_queries == 1 else f"{query}.{number}"
    else:
        param = f"{documents}.{number}"
    said = said.removeprefix("text_pair ").removeprefix("text ")
    return ServingError(error.kind, f"{param}: {said}", param=param)


def add_routes(router: APIRouter, models: Models, arguments: GatewayArguments) -> None:
    """Adds the endpoints; without a head that can do it, each says which one is needed."""
    relevance = Relevance(models, arguments)

    async def rerank(body: AnyRerankRequest, request: Request) -> Response:
        head = await relevance.head_for(request, body.model if isinstance(body, RerankRequest) else None)
        if isinstance(body, TextsRequest):
            names = ("query", "texts")
            outcome = await relevance.ask(
                request, head, [body.query], body.texts, names, truncate=body.truncate, raw_scores=bool(body.raw_scores)
            )
            return await json_answer(request, partial(_scored_texts, body, outcome), cost_headers(request, outcome))
        names = ("query", "documents")
        outcome = await relevance.ask(
            request, head, [body.query], body.texts, names, max_document_tokens=body.max_tokens_per_doc
        )
        make = partial(_reranked, body, outcome, f"rerank-{request.state.request_id}", head.name)
        return await json_answer(request, make, cost_headers(request, outcome))

    async def score(body: ScoreRequest, request: Request) -> Response:
        head = await relevance.head_for(request, body.model)
        queries, documents = body.pairs
        outcome = await relevance.ask(request, head, queries, documents, body.names)
        make = partial(_scores, outcome, f"score-{request.state.request_id}", head.name)
        return await json_answer(request, make, cost_headers(request, outcome))

    async def similarity(body: SimilarityRequest, request: Request) -> Response:
        head = relevance.embedding(request, body.model)
        asked, names = body.inputs, ("inputs.source_sentence", "inputs.sentences")
        truncate = body.parameters.truncate
        outcome = await relevance.ask(
            request, head, [asked.source_sentence], asked.sentences, names, truncate=truncate, whole=True
        )
        make = partial(lambda results: [result["score"] for result in results], outcome["results"])
        return await json_answer(request, make, cost_headers(request, outcome))

    for paths, endpoint, summary, answer in (
        (("/rerank", "/v1/rerank", "/v2/rerank"), rerank, "Documents by their relevance to a query, the best first.",
         Reranked | list[ScoredText]),
        (("/score", "/v1/score"), score, "How relevant each document is to its query.", Scores),
        (("/similarity", "/v1/sentence-similarity"), similarity, "The cosine of a text's vector with others'.",
         list[float]),
    ):  # fmt: skip
        for path in paths:
            router.add_api_route(
                path,
                endpoint,
                methods=["POST"],
                name=path.strip("/"),
                summary=summary,
                response_model=None,
                responses={
                    200: {"model": answer, "headers": COST_HEADERS},
                    **responses(*COMPUTED, "unknown_head", path=path),
                },
                openapi_extra=REQUEST_HEADERS,
                tags=["relevance"],
            )


def _best_first(results: list[dict[str, Any]]) -> list[int]:
    return sorted(range(len(results)), key=lambda index: -results[index]["score"])


def _window(result: dict[str, Any]) -> dict[str, int]:
    return {"start": result["start"], "end": result["end"]}


def _usage(outcome: dict[str, Any]) -> dict[str, int]:
    num_tokens = sum(record["num_tokens"] for record in outcome["records"])
    return {"prompt_tokens": num_tokens, "total_tokens": num_tokens}


def _reranked(body: RerankRequest, outcome: dict[str, Any], identifier: str, name: str) -> dict[str, Any]:
    results, texts = outcome["results"], body.texts
    usage = _usage(outcome)
    return {
        "id": identifier,
        "model": name,
        "results": [
            {
                "index": index,
                "relevance_score": results[index]["score"],
                "window": _window(results[index]),
                **({"document": {"text": texts[index]}} if body.return_documents else {}),
            }
            for index in _best_first(results)[: body.top_n]
        ],
        "usage": usage,
        "meta": {
            "api_version": {"version": "2"},
            "tokens": {"input_tokens": usage["prompt_tokens"], "output_tokens": 0},
        },
    }


def _scored_texts(body: TextsRequest, outcome: dict[str, Any]) -> list[dict[str, Any]]:
    results = outcome["results"]
    return [
        {
            "index": index,
            "score": results[index]["score"],
            **({"text": body.texts[index]} if body.return_text else {}),
            "window": _window(results[index]),
        }
        for index in _best_first(results)
    ]


def _scores(outcome: dict[str, Any], identifier: str, name: str) -> dict[str, Any]:
    data = [
        {"index": index, "object": "score", "score": result["score"], "window": _window(result)}
        for index, result in enumerate(outcome["results"])
    ]
    frame = {"id": identifier, "object": "list", "created": int(time.time()), "model": name}
    return {**frame, "data": data, "usage": _usage(outcome)}
