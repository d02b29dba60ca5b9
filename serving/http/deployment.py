"""The gateway as Serve runs it: handles to all heads, and the HTTP application in front of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import ray
from ray import serve
from ray.serve._private.common import StreamingHTTPRequest
from ray.serve.context import _get_global_client
from ray.serve.handle import DeploymentHandle

from serving.batches.arguments import BatchArguments
from serving.batches.jobs import BatchJobs
from serving.batches.storage import Storage
from serving.http.apis.batches_api import BatchService
from serving.http.edge import haproxy
from serving.http.edge.auth import ApiKeys, check_is_closed
from serving.http.edge.request_bodies import BODY_IN_SCOPE
from serving.http.gateway import create_app
from serving.http.metrics import GatewayMetrics
from serving.http.routing.around_refusals import running_replicas
from serving.http.routing.outages import Outages
from serving.http.routing.remote import RemoteHead
from serving.http.routing.routes import routes_to
from serving.rpc.service import EVERYWHERE, Service
from serving.settings import GatewayArguments, HeadArguments, RouteArguments


@serve.ingress()
class Gateway:
    """The HTTP side. Serve asks it for its ASGI application once it is constructed."""

    def __init__(
        self,
        handles: dict[str, DeploymentHandle[Any]],
        head_arguments: dict[str, HeadArguments],
        pooled: dict[str, dict[str, Any]],
        route_arguments: dict[str, RouteArguments],
        defaults: frozenset[str],
        arguments: GatewayArguments,
        batches: BatchArguments | None,
    ) -> None:
        # Where Serve's proxies listen; nothing public says it.
        client = _get_global_client()
        assert client is not None, "a replica has a controller"
        grpc = ray.get(client._controller.get_grpc_config.remote())
        check_is_closed(arguments, EVERYWHERE if grpc.grpc_servicer_functions else str(client.http_config.host))
        if haproxy.is_enabled() and grpc.grpc_servicer_functions:
            raise ValueError(
                "gRPC is not served through HAProxy: serve HTTP alone, or without RAY_SERVE_ENABLE_HA_PROXY"
            )
        context = serve.get_replica_context()
        metrics = GatewayMetrics()
        least = {head.pool or name: head.min_replicas for name, head in head_arguments.items()}
        outages = Outages(context.app_name, least, arguments.outage_grace_s, running_replicas)
        heads = {
            name: RemoteHead(
                name,
                head.task,
                handles[head.pool or name],
                pooled=pooled.get(name),
                outages=outages,
                on_retry=metrics.retry,
            )
            for name, head in head_arguments.items()
        }
        keys = ApiKeys.load(file=arguments.api_keys_file, environment_variable=arguments.api_keys_variable)
        self._app = create_app(
            heads,
            head_arguments=head_arguments,
            arguments=arguments,
            keys=keys,
            versions=_versions(),
            metrics=metrics,
            routes=routes_to(heads, route_arguments, metrics.compared),
            defaults=defaults,
            batches=_batch_service(batches, head_arguments, route_arguments, defaults, arguments),
        )
        self._service = Service(self._app)
        _ask_no_proxy_for_bodies_in_scope()
        threading.Thread(target=outages.watch, name="outages", daemon=True).start()

    # The methods of `bigbird.proto`, by which Serve finds them, and the argument by which it hands on the context.

    async def Score(self, request: Any, grpc_context: Any) -> Any:
        return await self._service.score(request, grpc_context)

    async def Embed(self, request: Any, grpc_context: Any) -> Any:
        return await self._service.embed(request, grpc_context)

    async def Generate(self, request: Any, grpc_context: Any) -> AsyncIterator[Any]:
        async for reply in self._service.generate(request, grpc_context):
            yield reply

    def __serve_build_asgi_app__(self) -> Any:
        return self._app


def _ask_no_proxy_for_bodies_in_scope() -> None:
    """Spares a request that has its whole body in the scope the call back to its proxy, one of three Ray calls.

    Serve makes it to get the body and to hear of a client that leaves; then, the proxy cancels the request as well.
    """
    by_call: Any = StreamingHTTPRequest.receive_asgi_messages

    async def nothing_more(_: Any) -> None:
        await asyncio.get_running_loop().create_future()  # Serve cancels it with the request

    def receive(request: StreamingHTTPRequest) -> Any:
        return nothing_more if BODY_IN_SCOPE in request.asgi_scope else by_call.fget(request)

    StreamingHTTPRequest.receive_asgi_messages = property(receive)  # type: ignore[assignment, method-assign]


def _batch_service(
    batches: BatchArguments | None,
    heads: dict[str, HeadArguments],
    routes: dict[str, RouteArguments],
    defaults: frozenset[str],
    arguments: GatewayArguments,
) -> BatchService | None:
    """What /v1/batches needs, and a thread that looks after its jobs; None where there are no batches."""
    if batches is None:
        return None
    storage = Storage(batches.storage)
    jobs = BatchJobs(storage, batches.max_jobs)
    threading.Thread(target=jobs.watch, name="batches", daemon=True).start()
    limits = {"max_body_bytes", "max_inputs_per_request", "max_characters_per_request"}
    served = {
        "heads": {name: head.model_dump(mode="json") for name, head in heads.items()},
        "routes": {name: route.model_dump(mode="json") for name, route in routes.items()},
        "defaults": sorted(defaults),
        "gateway": arguments.model_dump(mode="json", include=limits),
    }
    return BatchService(storage=storage, arguments=batches, served=served, on_change=jobs.wake)


def _versions() -> dict[str, str]:
    found = {}
    for package in ("bigbird-on-ray", "ray", "torch", "tokenizers", "fastapi"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
