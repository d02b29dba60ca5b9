"""/v1/text-generation: text-generation-inference's format over the text-generation head.

It knows that body and its server-sent events; how text is generated is the replica's business.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from serving.http.apis.event_streams import event_stream
from serving.http.apis.generation_schemas import GeneratedText, GenerationRequest
from serving.http.apis.json_bodies import json_answer
from serving.http.error_handlers import COMPUTED, responses
from serving.http.limits import REQUEST_HEADERS, check_size, time_limit_s
from serving.http.routing.models import Models
from serving.settings import GENERATION, GatewayArguments


def add_routes(router: APIRouter, models: Models, arguments: GatewayArguments) -> None:
    """Adds the endpoint where text is generated here."""
    if not models.serves(GENERATION):
        return

    @router.post(
        f"/{GENERATION}",
        tags=["tasks"],
        summary="Continue a text, at once or as server-sent events, one a token.",
        response_model=None,
        responses={
            200: {"model": list[GeneratedText], "content": {"text/event-stream": {}}},
            **responses(*COMPUTED, "unknown_head", path=f"/v1/{GENERATION}"),
        },
        openapi_extra=REQUEST_HEADERS,
    )
    async def generate(body: GenerationRequest, request: Request) -> Response:
        head = models.pick(request, GENERATION, body.model)
        check_size([body.inputs], arguments)
        parameters = body.parameters
        call = {
            "prompt": body.inputs,
            "options": parameters.options(),
            "truncate": parameters.truncate,
            "request_id": request.state.request_id,
        }
        timeout_s = time_limit_s(request, arguments)
        if body.stream:
            return await event_stream(
                request, head.stream("tokens", call, timeout_s=timeout_s), lambda event: _sent(event, body, request)
            )
        outcome = await head.call("generate", call, timeout_s=timeout_s)
        _account(request, outcome["details"])
        answer: dict[str, Any] = {"generated_text": _full(body, outcome["generated_text"])}
        if parameters.details:
            answer["details"] = _without_top_tokens(outcome["details"], body)
        return await json_answer(request, lambda: [answer], {}, source=answer)


def _sent(event: dict[str, Any], body: GenerationRequest, request: Request) -> Iterator[dict[str, Any]]:
    sent = {name: value for name, value in event.items() if name != "prefill"}
    if sent["details"] is not None:
        _account(request, sent["details"])
        sent["generated_text"] = _full(body, sent["generated_text"])
    yield _without_top_tokens(sent, body)


def _full(body: GenerationRequest, text: str) -> str:
    return body.inputs + text if body.parameters.return_full_text else text


def _without_top_tokens(told: dict[str, Any], body: GenerationRequest) -> dict[str, Any]:
    return told if body.parameters.top_n_tokens else {name: told[name] for name in told if name != "top_tokens"}


def _account(request: Request, details: dict[str, Any]) -> None:
    request.state.num_tokens = details["input_length"] + details["generated_tokens"]
