"""Which replica of a head gets a request: Serve's router, with an eye on replicas that have refused it."""

from __future__ import annotations

import random
from typing import Any

from ray.serve.request_router import MultiplexMixin, PendingRequest, RequestRouter, RunningReplica

# Replicas of each deployment that this process sends requests to, by what Serve's controller last told its router.
running_replicas: dict[str, int] = {}


class AroundRefusals(MultiplexMixin, RequestRouter):
    """Two replicas by chance, of which Serve takes the one with the shorter queue.

    Serve knows how many requests a replica has, not how many tokens: one that is full of a long document looks idle.
    Such a replica refuses the request, and the gateway sends it again with that replica's name in `refused_by`.
    Of a pool's replicas, those come first that have the head loaded, then those that have the fewest.
    """

    def __init__(self, deployment_id: Any, *arguments: Any, **keywords: Any) -> None:
        super().__init__(deployment_id, *arguments, **keywords)  # type: ignore[no-untyped-call]
        self._deployment = deployment_id.name

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Serve's controller calls this wherever something has changed."""
        super().update_replicas(replicas)
        running_replicas[self._deployment] = len(replicas)

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Ranks of at most two replicas each; those that have refused only if all have."""
        refused_by: tuple[str, ...] = ()
        model_id = ""
        if pending_request is not None:
            # Without this, Serve would ask again without a pause.
            pending_request.routing_context.should_backoff = True
            if pending_request.args and isinstance(pending_request.args[0], dict):
                refused_by = pending_request.args[0].get("refused_by", ())
            model_id = pending_request.metadata.multiplexed_model_id
        others = [replica for replica in candidate_replicas if replica.replica_id.unique_id not in refused_by]
        candidates = others or candidate_replicas
        ranks = self.rank_replicas_via_multiplex(candidates, model_id) if model_id else [candidates]
        return [random.sample(rank, min(2, len(rank))) for rank in ranks if rank]
