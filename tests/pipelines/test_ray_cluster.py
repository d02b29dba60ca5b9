"""pipelines.ray_cluster: a cluster that is gone is said to be gone, in one line and soon."""

import pytest
import ray
from local_cluster import free_base

from bigbird.errors import InputError
from pipelines.ray_cluster import join_ray


@pytest.mark.parametrize("known_from", ["the environment", "a file that the cluster left behind"])
def test_a_cluster_that_is_gone_is_refused_with_the_ways_on(known_from, monkeypatch, tmp_path):
    address = f"127.0.0.1:{free_base('127.0.0.1')}"
    ray.shutdown()  # one that a module before may have left
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    if known_from == "the environment":
        monkeypatch.setenv("RAY_ADDRESS", address)
    else:
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray" / "ray_current_cluster").write_text(address)
    with pytest.raises(InputError, match=r"no Ray cluster answers at .*RAY_ADDRESS=local for a Ray of this job alone"):
        join_ray(patience_s=0.1)
