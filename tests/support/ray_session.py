"""A Ray of its own for the tests of a module."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import ray

START_TRIES = 4

Started = TypeVar("Started")


def in_the_end(start: Callable[[], Started]) -> Started:
    """What `start` returns. Ray gives a node 30 s to start, which a busy machine may not manage at once."""
    for left in reversed(range(START_TRIES)):
        try:
            return start()
        except Exception as error:
            if not left or "timed out" not in str(error):
                raise
    raise AssertionError


def start_ray(num_cpus: int, **options: Any) -> None:
    """Never joins a cluster that somebody else has on this machine."""

    def start() -> None:
        try:
            ray.init("local", num_cpus=num_cpus, include_dashboard=False, log_to_driver=False, **options)
        except Exception:
            ray.shutdown()
            raise

    in_the_end(start)


@contextmanager
def ray_session(module: str, *, num_cpus: int = 2) -> Iterator[None]:
    """A local Ray; classes of `module` travel to its workers by value, since those cannot import a test."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[module])
    start_ray(num_cpus)
    yield
    ray.shutdown()
