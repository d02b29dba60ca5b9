"""The Ray of this process: one for all modules that can live on the same one."""

from collections.abc import Callable
from typing import Any, TypeVar

import pytest
import ray
from local_cluster import free_base
from ray.cluster_utils import Cluster

START_TRIES = 4
# Ray's own: settings that it deprecates itself; sockets and processes that it leaves to the interpreter's end.
OF_RAY = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:ray",
    "ignore::FutureWarning:ray",
    "ignore::ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)
# A test that needs two CPUs of a local Ray: tests/pipelines/conftest.py has it ready.
ON_TWO_CPUS = [
    pytest.mark.ray,
    pytest.mark.xdist_group("two CPUs"),
    pytest.mark.usefixtures("free_cpus"),
    OF_RAY,
]

Started = TypeVar("Started")
_running: dict[str, Any] = {}
_clusters: list[Cluster] = []


def in_the_end(start: Callable[[], Started]) -> Started:
    """What `start` returns. Ray gives a node 30 s to start, which a busy machine may not manage at once."""
    for left in reversed(range(START_TRIES)):
        try:
            return start()
        except Exception as error:
            if not left or "timed out" not in str(error):
                raise
    raise AssertionError


def start_ray(num_cpus: int, **options: Any) -> bool:
    """A local Ray with these options, until another one is started or the session ends. Whether it is a new one.

    Goes on with the one of the module before where its options were the same. Never joins a cluster that somebody else
    has on this machine.
    """
    wanted = {"num_cpus": num_cpus, **options}
    if ray.is_initialized() and _running == wanted:
        return False
    end_ray()

    def start() -> None:
        try:
            if wanted.get("include_dashboard"):
                _start_with_jobs(**wanted)
            else:
                ray.init("local", log_to_driver=False, **{"include_dashboard": False, **wanted})
        except Exception:
            end_ray()
            raise

    in_the_end(start)
    _running.clear()
    _running.update(wanted)
    return True


def _start_with_jobs(*, num_cpus: int, object_store_memory: int, include_dashboard: bool, **options: Any) -> None:
    """Jobs go through an agent, whose usual port another test process has; `ray.init` cannot choose it."""
    port = free_base("127.0.0.1")
    node = {"num_cpus": num_cpus, "object_store_memory": object_store_memory, "include_dashboard": include_dashboard}
    ports = {"dashboard_port": port, "dashboard_agent_listen_port": port + 1}
    cluster = Cluster(initialize_head=True, head_node_args=node | ports)
    _clusters.append(cluster)
    ray.init(cluster.address, log_to_driver=False, **options)


def end_ray() -> None:
    """Ends what runs, a cluster with its processes."""
    ray.shutdown()
    while _clusters:
        _clusters.pop().shutdown()
