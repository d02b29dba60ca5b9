"""What tests of scoring jobs share."""

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
