"""The gateway over real HTTP with a generation replica in the same process: what clients see, without Ray."""

import contextlib
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import uvicorn
from serving_fakes import RecordedMetrics

from serving.errors import ServingError
from serving.http.edge.auth import ApiKeys
from serving.http.gateway import create_app
from serving.settings import GENERATION, GatewayArguments, HeadArguments


class LocalHead:
    """A head whose replica is called as it is."""

    def __init__(self, name: str, replica: Any) -> None:
        self.name = self.task = name
        self._replica = replica

    async def call(self, method: str, request: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        return _unwrapped(await getattr(self._replica, method)({**request, "timeout_s": timeout_s}))

    async def stream(self, method: str, request: dict[str, Any], *, timeout_s: float) -> AsyncIterator[dict[str, Any]]:
        async for event in getattr(self._replica, method)({**request, "timeout_s": timeout_s}):
            yield _unwrapped(event)

    def outage(self) -> None:
        return None

    def asleep(self) -> bool:
        return False


def _unwrapped(outcome: dict[str, Any]) -> dict[str, Any]:
    if "failure" in outcome:
        raise ServingError.from_wire(outcome["failure"])
    return outcome


@contextlib.contextmanager
def generation_server(checkpoint: str) -> Iterator[str]:
    """Serves /v1/completions on a free port; yields the server's address."""
    from serving.replicas.generation import GenerationReplica  # imports Ray, whose warnings tests ignore when they run

    arguments = HeadArguments(task=GENERATION, checkpoint=checkpoint)
    head = LocalHead(GENERATION, GenerationReplica(GENERATION, arguments))
    app = create_app(
        {GENERATION: head},
        head_arguments={GENERATION: arguments},
        arguments=GatewayArguments(),
        keys=ApiKeys([]),
        versions={},
        metrics=RecordedMetrics(),
    )
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.02)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
