"""The replica of a pool: scoring heads with small checkpoints share it, and it keeps a few of them loaded.

It knows which head a request is for, which `request["head"]` says, and leaves the rest to that head's `ScoringReplica`.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from typing import Any

from ray import serve

from serving.errors import ServingError
from serving.replicas.failures import failure
from serving.replicas.scoring import ScoringReplica
from serving.settings import HeadArguments, PoolArguments

# A head that could not be loaded is not tried again for so long: reading it costs its neighbours processor time.
_FAILED_S = 30.0


class PoolReplica:
    """Loads a head where a request asks for it, and then drops the one that was asked longest ago.

    `max_models` heads are loaded; beside them are one that is being loaded and dropped ones that still answer. A head
    that cannot be loaded drops nobody and fails its own requests only. Heads whose encoders are equal hold one.

    Every request has `head`: its name, its arguments, and an id that is another one where either or its files are.
    """

    def __init__(self, name: str, arguments: PoolArguments) -> None:
        self._alive: weakref.WeakValueDictionary[str, ScoringReplica] = weakref.WeakValueDictionary()
        self._encoders: dict[str, str] = {}
        self._loads: dict[str, asyncio.Task[ScoringReplica]] = {}
        self._one_load = asyncio.Lock()
        self._failed: dict[str, tuple[float, str]] = {}
        self._in_files: dict[str, dict[str, Any]] = {}

        # Serve's part: it holds what this returns, drops what was asked longest ago, and tells routers and metrics.
        @serve.multiplexed(max_num_models_per_replica=arguments.max_models)  # type: ignore[untyped-decorator]
        async def keep(identity: str) -> ScoringReplica:
            return self._alive[identity]

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
        """What the request's head is. Asking loads none: of one that is not loaded, what its configuration says."""
        head = request["head"]
        identity = head["id"]
        if (replica := self._alive.get(identity)) is not None:
            details = (await replica.describe(request))["details"]
            return {"details": {**details, "loaded": True, "encoder": self._encoders[identity]}}
        try:
            if identity not in self._in_files:
                self._in_files[identity] = await asyncio.to_thread(_in_files, HeadArguments(**head["arguments"]))
            error = self._failure(head)
        except Exception as caught:
            return failure(_cannot_be_loaded(head, caught))
        told = {"error": error.message} if error is not None else {}
        return {"details": {**self._in_files[identity], "loaded": False, **told}}

    def check_health(self) -> None:
        """Serve replaces the replica where the process is at fault; one head's own failures are its own."""
        for replica in list(self._alive.values()):
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

    async def _replica(self, head: dict[str, Any]) -> ScoringReplica:
        """The head, loaded. Raises ServingError."""
        identity = head["id"]
        if (replica := self._alive.get(identity)) is not None:
            await self._keep(identity)
            return replica
        load = self._loads.get(identity)
        if load is None:
            load = self._loads[identity] = asyncio.create_task(self._load(head))
            load.add_done_callback(lambda _: self._loads.pop(identity))
        # A client that leaves does not stop the load, whose thread would go on all the same.
        return await asyncio.shield(load)

    async def _load(self, head: dict[str, Any]) -> ScoringReplica:
        identity = head["id"]
        async with self._one_load:
            if (error := self._failure(head)) is not None:
                raise error
            try:
                replica, digest = await asyncio.to_thread(self._loaded, head)
            except Exception as caught:
                error = _cannot_be_loaded(head, caught)
                self._failed[identity] = (time.monotonic() + _FAILED_S, error.message)
                raise error from caught
            self._failed.pop(identity, None)
            self._alive[identity], self._encoders[identity] = replica, digest
            await self._keep(identity)
        return replica

    def _loaded(self, head: dict[str, Any]) -> tuple[ScoringReplica, str]:
        """The head and its encoder's digest."""
        from bigbird.checkpoint import encoder_digest

        arguments = HeadArguments(**head["arguments"])
        digest = encoder_digest(arguments.checkpoint).digest[:16]
        alike = (one for identity, one in list(self._alive.items()) if self._encoders[identity] == digest)
        shared = next((one.encoder for one in alike), None)
        return ScoringReplica(head["name"], arguments, encoder=shared), digest

    def _failure(self, head: dict[str, Any]) -> ServingError | None:
        """Why the head is not even tried now."""
        until, reason = self._failed.get(head["id"], (0.0, ""))
        left_s = until - time.monotonic()
        return ServingError("head_unavailable", reason, retry_after_s=left_s) if left_s > 0 else None


def _cannot_be_loaded(head: dict[str, Any], error: Exception) -> ServingError:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    return ServingError("head_unavailable", f"{head['name']} cannot be loaded: {reason}", retry_after_s=_FAILED_S)


def _in_files(arguments: HeadArguments) -> dict[str, Any]:
    """What a head's configuration says. Raises what reading it raises."""
    from bigbird.config import BigBirdConfig

    config = BigBirdConfig.from_pretrained(arguments.checkpoint)
    return {
        "max_position_embeddings": config.max_position_embeddings,
        "labels": [config.id2label[index] for index in sorted(config.id2label)],
        "device": arguments.device,
    }
