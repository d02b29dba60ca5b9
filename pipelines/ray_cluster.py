"""Which Ray a job runs on: the one that runs here or that RAY_ADDRESS names, else one of its own."""

import atexit
import logging
import os
import socket
import time
from typing import Any

import ray
from ray._private.services import canonicalize_bootstrap_address

from bigbird.errors import InputError

# Long enough for a head that is just starting. Ray itself would try for minutes.
PATIENCE_S = 20.0


def join_ray(patience_s: float = PATIENCE_S, *, log_to_driver: bool = False, include_dashboard: bool = False) -> None:
    """Does nothing where Ray is initialized already. log_to_driver: what workers print is printed here too.
    include_dashboard: a Ray of its own has one, and with it the state API.

    Raises InputError for a cluster that does not answer; often it is one that ended without `ray stop`.
    """
    if ray.is_initialized():
        return
    try:
        _wait_for_head(patience_s)
        ray.init(include_dashboard=include_dashboard, log_to_driver=log_to_driver, logging_level=logging.WARNING)
    except ConnectionError as error:
        raise InputError(
            f"{error}. Start it again, forget it with `ray stop`, or set RAY_ADDRESS=local for a Ray of this job alone"
        ) from error
    if not log_to_driver:
        atexit.register(_end)


def _end() -> None:
    """Ends a Ray of one's own, sooner than Ray's own exit by what that waits for in vain.

    Half a second for lines of workers, which are not printed; and one for the autoscaler's process, which has nothing
    to scale and does not listen.
    """
    node: Any = ray._private.worker._global_node
    if node is not None and node.is_head():
        for started in node.all_processes.get("monitor", ()):
            started.process.kill()
    ray.shutdown()


def _wait_for_head(patience_s: float) -> None:
    """Until something listens where `ray.init` is going to look for a cluster, if anywhere."""
    if "://" in os.environ.get("RAY_ADDRESS", ""):
        return  # the address of a Ray client server
    address = canonicalize_bootstrap_address(None)  # type: ignore[arg-type]
    if address is None:
        return
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + patience_s
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=patience_s).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise ConnectionError(f"no Ray cluster answers at {address} ({error})") from error
        time.sleep(0.5)
