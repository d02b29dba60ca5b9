"""What tests of scoring jobs share."""

import gc

import pytest


@pytest.fixture(scope="module")
def two_cpus(request):
    """A local Ray of two CPUs. Its workers cannot import a test, so a test's classes travel to them by value."""
    import jobs
    import ray
    from ray_session import start_ray

    for module in (jobs, request.module):
        ray.cloudpickle.register_pickle_by_value(module)
    start_ray(2)


@pytest.fixture
def free_cpus(two_cpus):
    """Both CPUs, for one test: what pytest has logged of a pipeline that failed keeps its actors alive, in cycles."""
    import ray

    if ray.available_resources().get("CPU", 0) < 2:
        gc.collect()
