"""An endpoint of the service without HTTP and without models: the service's code reads and checks the body of a
request, and shapes the answer.

The model's part is done by `RecordsOf`: it gives the stored records of a request, or raises if it has not been scored.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from functools import cached_property
from typing import Any

from fastapi import APIRouter, Request
from fastapi.routing import APIRoute
from pydantic import ValidationError

from bigbird.config import BigBirdConfig
from bigbird.errors import InputError
from bigbird.predictors import OPTIONS, LengthOptions
from bigbird.tokenization.tokenizer import BigBirdTokenizer
from serving.errors import ServingError
from serving.http.apis import openai_api, tasks_api
from serving.http.error_handlers import from_validation
from serving.http.error_response import error_response
from serving.http.routing.models import Models, plain_path
from serving.http.routing.routes import routes_to
from serving.replicas.scoring import refused_input, text_of, with_changes
from serving.settings import EMBEDDING, GatewayArguments, HeadArguments, RouteArguments

logger = logging.getLogger(__name__)

RecordsOf = Callable[["BatchHead", list[Any], Any], list[dict[str, Any]]]
"""A head, the examples of one request and the options of the task -> their records."""


class BatchHead:
    """A head of the server, for an endpoint of a batch. It reads configuration and tokenizer, not the weights."""

    def __init__(self, name: str, arguments: HeadArguments, records_of: RecordsOf) -> None:
        self.name = name
        self.task = arguments.task
        self._arguments = arguments
        self._records_of = records_of

    @cached_property
    def _checkpoint(self) -> tuple[BigBirdConfig, BigBirdTokenizer] | Exception:
        """Its configuration and tokenizer, or why they cannot be read."""
        checkpoint = self._arguments.checkpoint
        try:
            return BigBirdConfig.from_pretrained(checkpoint), BigBirdTokenizer.from_pretrained(checkpoint)
        except Exception as error:
            return error

    async def call(self, method: str, request: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        """As a replica answers. Raises ServingError, and what `RecordsOf` raises."""
        assert method == "score", method
        options = with_changes(OPTIONS[self.task](), request["options"])
        examples = self._examples(request["inputs"], options)
        records = self._records_of(self, examples, options)
        failed = [(index, record["error"]) for index, record in enumerate(records) if "error" in record]
        # As in a replica: what cannot be read is found before what cannot be computed.
        for index, failure in sorted(failed, key=lambda one: one[1]["type"] != "InputError"):
            if failure["type"] == "InputError":
                raise refused_input(index, failure["message"])
            raise ServingError("internal", f"inputs.{index}: {failure['message']}")
        return {"records": records, "timings_s": {}}

    def _examples(self, inputs: list[Any], options: Any) -> list[Any]:
        """What the predictor takes for these inputs.

        Of a checkpoint that cannot be read, texts are taken all the same: scoring them fails, and is tried again.
        """
        if isinstance(self._checkpoint, Exception):
            if any(isinstance(example, list) for example in inputs):
                raise ServingError("head_unavailable", f"{self.name} cannot be loaded: {self._checkpoint}")
            return inputs
        config, tokenizer = self._checkpoint
        examples = [text_of(tokenizer, config, example, index) for index, example in enumerate(inputs)]
        try:
            if isinstance(options, LengthOptions):
                options.length_limit(config.max_position_embeddings)
        except InputError as error:
            raise refused_input(0, str(error)) from None
        return examples

    def stream(self, method: str, request: dict[str, Any], *, timeout_s: float) -> AsyncIterator[dict[str, Any]]:
        raise NotImplementedError("nothing that a scoring job answers is streamed")

    def outage(self) -> None:
        return None

    def asleep(self) -> bool:
        return False


class Endpoint:
    """The endpoint at `path` of a server. served: its models and limits, as request.json of the batch has them."""

    def __init__(self, served: Mapping[str, Any], path: str, records_of: RecordsOf) -> None:
        heads = {name: BatchHead(name, head, records_of) for name, head in heads_of(served).items()}
        routes = {name: RouteArguments.model_validate(route) for name, route in served["routes"].items()}
        unwatched = {name: route.model_copy(update={"shadow": None}) for name, route in routes.items()}
        found = routes_to(heads, unwatched, lambda *compared: None)
        models = Models(heads, found, frozenset(served["defaults"]))
        self._arguments = GatewayArguments.model_validate(served["gateway"])
        router = APIRouter(prefix="/v1")
        tasks_api.add_routes(router, models, self._arguments)
        if models.serves(EMBEDDING):
            openai_api.add_embeddings(router, models, self._arguments)
        self.path, self._model = plain_path(path)
        (self._route,) = (route for route in router.routes if isinstance(route, APIRoute) and route.path == self.path)
        self._body = self._route.endpoint.__annotations__["body"]

    @property
    def max_bytes(self) -> int:
        return self._arguments.max_body_bytes

    async def answer(self, body: Any, request_id: str) -> tuple[int, bytes]:
        """Status and body, as a client that sends `body` gets them. Raises BaseExceptions of `RecordsOf`."""
        state = {"request_id": request_id, **({} if self._model is None else {"model": self._model})}
        scope = {"type": "http", "method": "POST", "path": self.path, "headers": [], "state": state}
        try:
            response = await self._route.endpoint(body=self._body.model_validate(body), request=Request(scope))
            return response.status_code, bytes(response.body)
        except ValidationError as error:
            refused = from_validation(error.errors(), body)
        except ServingError as error:
            refused = error
        except Exception:
            logger.exception("request %s failed", request_id)
            refused = ServingError("internal", "unexpected failure; the log of the batch's job has the reason")
        response = error_response(refused, self.path)
        return response.status_code, bytes(response.body)


def heads_of(served: Mapping[str, Any]) -> dict[str, HeadArguments]:
    """The heads of a server by name. served: as `Endpoint` takes it."""
    return {name: HeadArguments.model_validate(head) for name, head in served["heads"].items()}
