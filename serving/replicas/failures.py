"""A failure as a replica answers it."""

from __future__ import annotations

from typing import Any

from ray import serve
from ray.serve.exceptions import RayServeException

from serving.errors import ServingError


def failure(error: ServingError) -> dict[str, Any]:
    """The answer that stands for `error`, with the replica it comes from; "" outside of Serve."""
    try:
        replica = serve.get_replica_context().replica_id.unique_id
    except RayServeException:
        replica = ""
    return {"failure": error.to_wire(), "replica": replica}
