"""One Ray session for the tests of a module. Ray gives a node 30 s to start, which a busy machine may not manage."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import ray

START_ATTEMPTS = 4


@contextmanager
def ray_session(module: str, *, num_cpus: int = 2) -> Iterator[None]:
    """A local Ray; classes of `module` travel to its workers by value, since those cannot import a test."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[module])
    for attempt in range(START_ATTEMPTS):
        if _started(num_cpus, last=attempt == START_ATTEMPTS - 1):
            break
    yield
    ray.shutdown()


def _started(num_cpus: int, *, last: bool) -> bool:
    try:
        ray.init(num_cpus=num_cpus, include_dashboard=False, log_to_driver=False)
    except Exception as error:
        ray.shutdown()
        if "timed out" not in str(error) or last:
            raise
        return False
    return True
