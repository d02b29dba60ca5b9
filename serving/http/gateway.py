"""The FastAPI application: routes, request limits and time limits, in front of heads that live elsewhere.

It knows HTTP and `Head`; it knows neither Ray nor the model library, so it starts fast and is tested without
either. What a request means is in `schemas` and `tasks`, what failures look like in `error_handlers`.
"""

import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from fastapi.responses import HTMLResponse
from fastapi.security import HTTPBearer
from starlette.middleware.cors import CORSMiddleware

from serving.errors import ServingError
from serving.http import error_handlers
from serving.http.answers import HeadInfo, Info
from serving.http.apis import batches_api, generation_api, openai_api, relevance_api, tasks_api, tei_api
from serving.http.apis.json_bodies import OneLargeBodyAtATime
from serving.http.apis.wire import MAX_INPUTS
from serving.http.edge.auth import ApiKeys
from serving.http.edge.requests import Edge, RequestMetrics
from serving.http.error_handlers import responses
from serving.http.limits import COST_HEADERS
from serving.http.probes import ASLEEP, NOT_LOADABLE, READY, Probes
from serving.http.routing.heads import Head
from serving.http.routing.models import ModelPaths, Models
from serving.http.routing.routes import Route
from serving.settings import EMBEDDING, GatewayArguments, HeadArguments


def page_policy(text: str) -> str:
    """The policy of a page that has everything inside: only what is written in it runs, and it may not be framed."""

    def sources(tag: str) -> str:
        inside = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        return " ".join(f"'sha256-{b64encode(sha256(part.encode()).digest()).decode()}'" for part in inside)

    return (
        f"default-src 'none'; style-src {sources('style')}; script-src {sources('script')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def create_app(
    heads: Mapping[str, Head],
    *,
    head_arguments: Mapping[str, HeadArguments],
    arguments: GatewayArguments,
    keys: ApiKeys,
    versions: Mapping[str, str],
    metrics: RequestMetrics,
    routes: Sequence[Route] = (),
    defaults: frozenset[str] = frozenset(),
    batches: batches_api.BatchService | None = None,
) -> FastAPI:
    """The application that serves `heads`, each under its name.

    defaults: heads and routes that answer requests to their task that name no model.
    versions: name to version of what runs here, shown by /info; `bigbird-on-ray` is the application's own.
    """
    models = Models(heads, routes, defaults)
    app = FastAPI(
        title="BigBird on Ray",
        version=versions.get("bigbird-on-ray", "0"),
        # A page of our own instead: the usual one loads its scripts from elsewhere, and clusters are often closed off.
        docs_url=None,
        redoc_url=None,
        # A redirect would name whatever host the client said.
        redirect_slashes=False,
        description="Long documents through every head of BigBird. The body of an error is that of Hugging Face's "
        "servers: `error` says what is wrong, `error_type` its kind, `param` the field at fault, where known. "
        "Rerank paths have Cohere's `message` as well, and OpenAI's paths have OpenAI's body. "
        "Several models may serve one task: `model` in the body chooses one, and `/v1/models/NAME/TASK` is `/v1/TASK` "
        "of that one.",
    )
    error_handlers.install(app, models)
    key_in_docs = [Depends(HTTPBearer(auto_error=False, description="An API key."))] if keys.required else []
    v1 = APIRouter(prefix="/v1", dependencies=key_in_docs, route_class=OneLargeBodyAtATime)
    tasks_api.add_routes(v1, models, arguments)
    generation_api.add_routes(v1, models, arguments)
    openai_api.add_routes(v1, models, arguments)
    if batches is not None:
        batches_api.add_routes(v1, models, batches, with_keys=keys.required)
    app.include_router(v1)
    root = APIRouter(dependencies=key_in_docs, route_class=OneLargeBodyAtATime)
    relevance_api.add_routes(root, models, arguments)
    tei_api.add_routes(root, models, arguments)
    app.include_router(root)
    app.include_router(_operations(models, head_arguments, arguments, versions, key_in_docs))
    app.add_middleware(ModelPaths)
    app.add_middleware(Edge, keys=keys, max_body_bytes=arguments.max_body_bytes, head_at=models.at, metrics=metrics)
    if arguments.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(arguments.cors_origins),
            allow_methods=["GET", "POST"],
            # What clients send by themselves, openai-js's x-stainless-* among it; none of it carries a right.
            allow_headers=["*"],
            expose_headers=[*COST_HEADERS, "Retry-After", "X-Request-ID", "X-Should-Retry"],
        )
    _complete_document(app)
    return app


def _complete_document(app: FastAPI) -> None:
    document = app.openapi

    def openapi() -> dict[str, Any]:
        made = document()
        error_handlers.complete_examples(made)
        return made

    app.openapi = openapi  # type: ignore[method-assign]


def _operations(
    models: Models,
    head_arguments: Mapping[str, HeadArguments],
    arguments: GatewayArguments,
    versions: Mapping[str, str],
    key_in_docs: list[Any],
) -> APIRouter:
    router = APIRouter(tags=["operations"])
    probes = Probes(models)

    def add_page(path: str, name: str) -> None:
        text = files("serving.http").joinpath("static", name).read_text(encoding="utf-8")
        headers = {"Content-Security-Policy": page_policy(text), "X-Content-Type-Options": "nosniff"}

        @router.get(path, include_in_schema=False, name=name)
        async def page() -> HTMLResponse:
            return HTMLResponse(text, headers=headers)

    add_page("/", "index.html")
    add_page("/docs", "docs.html")

    @router.get("/health", summary="The server lives.")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @router.get("/ready", summary="Every replica answers.", responses=responses("head_unavailable"))
    async def ready() -> dict[str, dict[str, str]]:
        states = await probes.states()
        broken = {name: state for name, (state, _) in states.items() if state not in (READY, ASLEEP, NOT_LOADABLE)}
        if broken:
            message = "; ".join(f"{name}: {state}" for name, state in broken.items())
            raise ServingError("head_unavailable", message, retry_after_s=5)
        return {"heads": {name: state for name, (state, _) in states.items()}}

    def told(head: Head, state: str, details: dict[str, Any] | None) -> HeadInfo:
        given = head_arguments[head.name]
        return HeadInfo(
            name=head.name,
            task=head.task,
            default=models.is_default(head),
            model=_shown(given.checkpoint),
            ready=state == READY,
            state=state,
            limits=given.model_dump(include={"max_tokens_per_batch", "max_tokens_per_request", "max_queued_requests"}),
            details=details,
        )

    @router.get("/info", summary="Heads, limits and versions.", dependencies=key_in_docs,
                responses=responses("invalid_api_key"))  # fmt: skip
    async def info() -> Info:
        states = await probes.states()
        limits = arguments.model_dump(include={"max_body_bytes", "max_inputs_per_request", "request_timeout_s"})
        heads = [told(head, *states[head.name]) for head in models]
        return Info(
            version=versions.get("bigbird-on-ray", "0"),
            versions=dict(versions),
            limits=limits,
            heads=heads,
            **_for_embedders(heads),
        )

    def default_head(task: str) -> Head:
        for head in models:
            if head.task == task and models.is_default(head):
                return head
        raise ServingError("unknown_head", f"no {task[:100]} here; the heads are {', '.join(models.names)}")

    @router.get("/v1/{task}/health", summary="The head is served; huggingface_hub asks here.",
                dependencies=key_in_docs, responses=responses("invalid_api_key", "unknown_head"))  # fmt: skip
    async def head_health(task: str) -> dict[str, str]:
        default_head(task)
        return {"status": "ok"}

    @router.get("/v1/{task}/info", summary="One head; huggingface_hub asks here.", dependencies=key_in_docs,
                responses=responses("invalid_api_key", "unknown_head"))  # fmt: skip
    async def head_info(task: str) -> HeadInfo:
        head = default_head(task)
        return told(head, *(await probes.states())[head.name])

    return router


def _for_embedders(heads: list[HeadInfo]) -> dict[str, Any]:
    """What text-embeddings-inference says of its one model: here of the head that /embed asks, or else of the first."""
    embedders = [head for head in heads if head.task == EMBEDDING and head.default]
    head = (embedders or heads)[0]
    return {
        "model_id": head.model,
        "max_input_length": (head.details or {}).get("max_position_embeddings"),
        "max_batch_tokens": head.limits["max_tokens_per_batch"],
        "max_concurrent_requests": head.limits["max_queued_requests"],
        "max_client_batch_size": MAX_INPUTS,
    }


def _shown(checkpoint: str) -> str:
    """A checkpoint's name without the server's directories."""
    return "/".join(checkpoint.rstrip("/").split("/")[-2:])
