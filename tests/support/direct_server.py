"""The gateway over HTTP with real replicas in its own process, without Ray: what clients get, at little cost."""

from typing import Any

from live_app import LiveApp
from serving_fakes import RecordedMetrics

from serving.errors import ServingError
from serving.http.edge.auth import ApiKeys
from serving.http.gateway import create_app
from serving.settings import GENERATION, GatewayArguments, HeadArguments


class DirectHead:
    """A head whose one replica is called as Serve would call it."""

    def __init__(self, name: str, arguments: HeadArguments) -> None:
        from serving.replicas.generation import GenerationReplica
        from serving.replicas.scoring import ScoringReplica

        self.name, self.task = name, arguments.task
        self._replica = (GenerationReplica if self.task == GENERATION else ScoringReplica)(name, arguments)

    async def call(self, method: str, request: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        return unwrapped(await getattr(self._replica, method)({**request, "timeout_s": timeout_s}))

    async def stream(self, method: str, request: dict[str, Any], *, timeout_s: float) -> Any:
        async for event in getattr(self._replica, method)({**request, "timeout_s": timeout_s}):
            yield unwrapped(event)

    def outage(self) -> None:
        return None

    def asleep(self) -> bool:
        return False


def unwrapped(outcome: dict[str, Any]) -> dict[str, Any]:
    if "failure" in outcome:
        raise ServingError.from_wire(outcome["failure"])
    return outcome


class DirectServer(LiveApp):
    """A running gateway; `heads` maps a name to its settings."""

    def __init__(self, heads: dict[str, HeadArguments], arguments: GatewayArguments) -> None:
        super().__init__(
            create_app(
                {name: DirectHead(name, given) for name, given in heads.items()},
                head_arguments=heads,
                arguments=arguments,
                keys=ApiKeys([]),
                versions={},
                metrics=RecordedMetrics(),
            )
        )
