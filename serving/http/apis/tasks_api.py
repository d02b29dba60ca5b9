"""/v1/TASK: the Hugging Face inference API over the same heads, an endpoint for each task of `tasks`."""

from functools import partial

from fastapi import APIRouter, Request
from fastapi.responses import Response

from serving.errors import ServingError
from serving.http.apis.json_bodies import json_answer
from serving.http.apis.parameters import in_clients_words
from serving.http.apis.tasks import TASKS, Task
from serving.http.error_handlers import COMPUTED, responses
from serving.http.limits import COST_HEADERS, REQUEST_HEADERS, check_size, cost_headers, time_limit_s
from serving.http.routing.models import Models
from serving.settings import GatewayArguments


def add_routes(router: APIRouter, models: Models, arguments: GatewayArguments) -> None:
    """Adds the endpoints of the tasks that are served here."""
    for task in TASKS.values():
        if models.serves(task.name):
            _add_task(router, task, models, arguments)


def _add_task(router: APIRouter, task: Task, models: Models, arguments: GatewayArguments) -> None:
    async def endpoint(body: task.request, request: Request) -> Response:  # type: ignore[name-defined]
        head = models.pick(request, task.name, body.model)
        inputs = [example if isinstance(example, str) else example.model_dump() for example in body.inputs]
        check_size(inputs, arguments)
        task.check(body, arguments)
        call = {
            "inputs": inputs,
            "options": body.parameters.options(),
            "request_id": request.state.request_id,
        }
        try:
            outcome = await head.call("score", call, timeout_s=time_limit_s(request, arguments))
        except ServingError as error:
            raise in_clients_words(error, body.parameters.names) from None
        records = outcome["records"]
        headers = cost_headers(request, outcome)
        return await json_answer(request, partial(task.answer_for, body, records), headers, source=[inputs, records])

    router.add_api_route(
        f"/{task.name}",
        endpoint,
        methods=["POST"],
        name=task.name,
        summary=task.summary,
        response_model=None,
        responses={200: {"model": task.answer, "headers": COST_HEADERS}, **responses(*COMPUTED, "unknown_head")},
        openapi_extra=REQUEST_HEADERS,
        tags=["tasks"],
    )
