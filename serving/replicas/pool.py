"""The replica of a pool: scoring heads with small checkpoints share it, and it keeps a few of them loaded.

Every request names its head (`request["head"]`). That head's `ScoringReplica` does the rest.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import ref

from ray import serve

from serving.errors import ServingError
from serving.replicas.failures import failure
from serving.replicas.scoring import ScoringReplica
from serving.settings import HeadArguments, PoolArguments

# A head that could not be loaded is not tried again for so long: reading it costs its neighbours processor time.
_FAILED_S = 30.0


def _not_loaded() -> None:
    return None


@dataclass
class _Head:
    """What a replica knows of a head.

    loaded: a weak reference; encoder: the digest of what is loaded. loading: while it runs. configuration: as it was
    read. failed_until: of the clock `time.monotonic`; failure: why it could not be loaded.
    """

    loaded: Callable[[], ScoringReplica | None] = _not_loaded
    encoder: str = ""
    loading: asyncio.Task[ScoringReplica] | None = None
    configuration: dict[str, Any] | None = None
    failed_until: float = 0.0
    failure: str = ""


class PoolReplica:
    """Loads a head where a request asks for it, and then drops the one that was asked longest ago.

    `max_models` heads are loaded; beside them are one that is being loaded and dropped ones that still answer. A head
    that cannot be loaded drops nobody and fails its own requests only. Heads with equal encoders share one in memory.

    Every request has `head`: its name, its arguments, and an id that is another one where either or its files are.
    """

    def __init__(self, name: str, arguments: PoolArguments) -> None:
        self._heads: defaultdict[str, _Head] = defaultdict(_Head)
        self._one_load = asyncio.Lock()

        # Serve's part: it holds what this returns, drops what was asked longest ago, and tells routers and metrics.
        @serve.multiplexed(max_num_models_per_replica=arguments.max_models)  # type: ignore[untyped-decorator]
        async def keep(identity: str) -> ScoringReplica:
            replica = self._heads[identity].loaded()
            assert replica is not None, "it is loaded first"
            return replica

        self._keep = keep

    async def score(self, request: dict[str, Any]) -> dict[str, Any]:
        """As `ScoringReplica.score`, by the request's head."""
        return await self._answer("score", request)

    async def relevance(self, request: dict[str, Any]) -> dict[str, Any]:
        """As `ScoringReplica.relevance`, by the request's head."""
        return await self._answer("relevance", request)

    async def tokenize(self, request: dict[str, Any]) -> dict[str, Any]:
        """As `ScoringReplica.tokenize`, by the request's head."""
        return await self._answer("tokenize", request)

    async def decode(self, request: dict[str, Any]) -> dict[str, Any]:
        """As `ScoringReplica.decode`, by the request's head."""
        return await self._answer("decode", request)

    async def describe(self, request: dict[str, Any]) -> dict[str, Any]:
        """What the request's head is. Asking loads none: of one that is not loaded, what its configuration says.

        `error` is there while it cannot be loaded.
        """
        given = request["head"]
        head = self._heads[given["id"]]
        if (replica := head.loaded()) is not None:
            details = (await replica.describe(request))["details"]
            return {"details": {**details, "loaded": True, "encoder": head.encoder}}
        error = _failure(head)
        try:
            if head.configuration is None:
                head.configuration = await asyncio.to_thread(_configuration, HeadArguments(**given["arguments"]))
        except Exception as caught:
            error = _cannot_be_loaded(given["name"], caught)
        told = {"error": error.message} if error is not None else {}
        return {"details": {**(head.configuration or {}), "loaded": False, **told}}

    def check_health(self) -> None:
        """Serve replaces the replica where the process is at fault; one head's own failures are its own."""
        for replica in self._loaded():
            replica.check_health(of_process=True)

    async def _answer(self, method: str, request: dict[str, Any]) -> dict[str, Any]:
        started = time.monotonic()
        try:
            replica = await self._replica(request["head"])
        except ServingError as error:
            return failure(error)
        left_s = request["timeout_s"] - (time.monotonic() - started)
        answer: dict[str, Any] = await getattr(replica, method)({**request, "timeout_s": max(left_s, 1e-3)})
        return answer

    async def _replica(self, given: dict[str, Any]) -> ScoringReplica:
        """The head, loaded. Raises ServingError."""
        head = self._heads[given["id"]]
        if (replica := head.loaded()) is not None:
            await self._keep(given["id"])
            return replica
        if head.loading is None:
            head.loading = asyncio.create_task(self._load(given, head))
        # A client that leaves does not stop the load, whose thread would go on all the same.
        return await asyncio.shield(head.loading)

    async def _load(self, given: dict[str, Any], head: _Head) -> ScoringReplica:
        try:
            async with self._one_load:
                if (error := _failure(head)) is not None:
                    raise error
                try:
                    replica, encoder = await asyncio.to_thread(self._made, given)
                except Exception as caught:
                    error = _cannot_be_loaded(given["name"], caught)
                    head.failed_until, head.failure = time.monotonic() + _FAILED_S, error.message
                    raise error from caught
                head.failed_until, head.loaded, head.encoder = 0.0, ref(replica), encoder
                await self._keep(given["id"])
            return replica
        finally:
            head.loading = None

    def _made(self, given: dict[str, Any]) -> tuple[ScoringReplica, str]:
        """A replica of the head, and the digest of its encoder."""
        from bigbird.checkpoint import encoder_digest

        arguments = HeadArguments(**given["arguments"])
        digest = encoder_digest(arguments.checkpoint).digest[:16]
        alike = (known.loaded() for known in list(self._heads.values()) if known.encoder == digest)
        shared = next((one.encoder for one in alike if one is not None), None)
        return ScoringReplica(given["name"], arguments, encoder=shared), digest

    def _loaded(self) -> list[ScoringReplica]:
        return [replica for head in list(self._heads.values()) if (replica := head.loaded()) is not None]


def _failure(head: _Head) -> ServingError | None:
    """Why the head is not even tried now."""
    left_s = head.failed_until - time.monotonic()
    return ServingError("head_unavailable", head.failure, retry_after_s=left_s) if left_s > 0 else None


def _cannot_be_loaded(name: str, error: Exception) -> ServingError:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    return ServingError("head_unavailable", f"{name} cannot be loaded: {reason}", retry_after_s=_FAILED_S)


def _configuration(arguments: HeadArguments) -> dict[str, Any]:
    """What a head's configuration says. Raises what reading it raises."""
    from bigbird.config import BigBirdConfig

    config = BigBirdConfig.from_pretrained(arguments.checkpoint)
    return {
        "max_position_embeddings": config.max_position_embeddings,
        "labels": [config.id2label[index] for index in sorted(config.id2label)],
        "device": arguments.device,
    }
