"""/v1/batches: OpenAI's endpoints over the records of batches. Jobs of the cluster answer them (`batches.jobs`)."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from serving.batches.arguments import BatchArguments
from serving.batches.batches import Batches
from serving.batches.files import Files
from serving.batches.storage import Storage
from serving.errors import ServingError
from serving.http.apis import files_api
from serving.http.apis.batches_schemas import BatchList, BatchObject, BatchRequest
from serving.http.edge.requests import bearer_key
from serving.http.error_handlers import EVERYWHERE, responses
from serving.http.routing.models import Models, plain_path, task_at
from serving.settings import EMBEDDING, SCORING_TASKS

# The owner of all files where there are no keys.
_NO_KEY = "everybody"


@dataclass(frozen=True, kw_only=True)
class BatchService:
    """served: the models and limits of the server, kept with each batch for its job. on_change: called after a batch
    was created or cancelled."""

    storage: Storage
    arguments: BatchArguments
    served: Mapping[str, Any]
    on_change: Callable[[], None]


def add_routes(router: APIRouter, models: Models, service: BatchService, *, with_keys: bool) -> None:
    """Adds /files and /batches. with_keys: every API key sees its own only."""

    def owner(request: Request) -> str:
        if not with_keys:
            return _NO_KEY
        key = bearer_key(request.headers) or ""
        return sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:32]

    def files_of(request: Request) -> Files:
        return Files(service.storage, owner(request))

    def batches_of(request: Request) -> Batches:
        return Batches(service.storage, owner(request))

    files_api.add_routes(router, files_of, batches_of, service.arguments)
    errors = responses("invalid_api_key", "unknown_object", path="/v1/batches/ID")

    @router.post("/batches", tags=["openai"], summary="Answer a file of requests.",
                 responses=responses(*EVERYWHERE, "unknown_head", path="/v1/batches"))  # fmt: skip
    def create(body: BatchRequest, request: Request) -> BatchObject:
        _check_endpoint(body.endpoint, models)
        try:
            file = files_of(request).get(body.input_file_id)
        except ServingError as error:
            raise ServingError("invalid_input", f"input_file_id: {error.message}", param="input_file_id") from None
        if file["purpose"] != files_api.PURPOSE:
            message = f"input_file_id: a file for {file['purpose']}, not for {files_api.PURPOSE}"
            raise ServingError("invalid_input", message, param="input_file_id")
        now = int(time.time())
        asked = {
            **body.model_dump(include={"input_file_id", "endpoint", "completion_window", "metadata"}),
            "created_at": now,
            "expires_at": now + body.window_s,
            "max_requests": service.arguments.max_requests,
            "max_actors": service.arguments.max_actors,
            "served": service.served,
        }
        batch = batches_of(request).add(asked, request.state.request_id)
        service.on_change()
        return BatchObject(**batch.as_openai())

    @router.get("/batches", tags=["openai"], summary="The batches of this API key, the newest first.",
                responses=errors)  # fmt: skip
    def listed(
        after: str | None = None, limit: Annotated[int, Query(ge=1, le=100)] = 20, *, request: Request
    ) -> BatchList:
        data = [batch.as_openai() for batch in islice(batches_of(request).list(after), limit + 1)]
        return BatchList(**files_api.as_page(data, limit))

    @router.get("/batches/{batch_id}", tags=["openai"], summary="One batch.", responses=errors)
    def retrieve(batch_id: str, request: Request) -> BatchObject:
        return BatchObject(**batches_of(request).get(batch_id).as_openai())

    @router.post("/batches/{batch_id}/cancel", tags=["openai"], summary="End a batch; answers that it has stay.",
                 responses=errors)  # fmt: skip
    def cancel(batch_id: str, request: Request) -> BatchObject:
        batch = batches_of(request).get(batch_id)
        if batch.ended:
            message = f"id: the batch has ended, its status is {batch.state['status']}"
            raise ServingError("invalid_input", message, param="id")
        if batch.read("cancel") is None:
            batch.write("cancel", {"cancelling_at": int(time.time())})
            service.on_change()
        return BatchObject(**batch.as_openai())


def _check_endpoint(endpoint: str, models: Models) -> None:
    """Raises ServingError for a path whose requests a scoring job cannot answer."""
    paths = {f"/v1/{task}" for task in SCORING_TASKS if models.serves(task)}
    if models.serves(EMBEDDING):
        paths.add("/v1/embeddings")
    path, model = plain_path(endpoint)
    if path not in paths:
        raise ServingError(
            "invalid_input",
            f"endpoint: {endpoint[:100]!r} is not served in batches; these are: {', '.join(sorted(paths))}",
            param="endpoint",
        )
    if model is not None and models.find(model).task != task_at(path):
        raise ServingError(
            "invalid_input", f"endpoint: {model[:100]!r} is a model for {models.find(model).task}", param="endpoint"
        )
