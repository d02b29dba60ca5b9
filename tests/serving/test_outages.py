"""serving.http.routing.outages: what Serve's status means for a head, without a cluster."""

from types import SimpleNamespace

import pytest
from serving_cluster import serve  # noqa: F401  (imports Serve with its own warnings left out)

from serving.http.routing.outages import Outages  # isort: skip


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(s=100.0)
    monkeypatch.setattr("serving.http.routing.outages.time.monotonic", lambda: now.s)
    return now


def seen(status, **states):
    return {"fill-mask": SimpleNamespace(status=status, replica_states=states)}


def test_a_head_without_a_replica_is_down_only_after_a_grace(clock):
    outages = Outages("app", {"fill-mask": 1}, grace_s=30)
    assert outages.outage("fill-mask") is None, "nothing is known yet"
    outages.update(seen("HEALTHY", RUNNING=1))
    assert outages.outage("fill-mask") is None
    outages.update(seen("UNHEALTHY", STARTING=1))
    clock.s += 29
    outages.update(seen("UNHEALTHY", STARTING=1))
    assert outages.outage("fill-mask") is None
    clock.s += 2
    assert outages.outage("fill-mask") is None, "what is known is two seconds old"
    outages.update(seen("UNHEALTHY", STARTING=1))
    assert "no working replica for 31 s" in outages.outage("fill-mask")
    outages.update(seen("HEALTHY", RUNNING=1))
    assert outages.outage("fill-mask") is None


def test_a_head_that_scaled_to_zero_is_asleep_not_down(clock):
    outages = Outages("app", {"fill-mask": 0}, grace_s=0)
    outages.update(seen("HEALTHY"))
    assert outages.asleep("fill-mask")
    assert outages.outage("fill-mask") is None
    outages.update(seen("UNHEALTHY"))
    assert not outages.asleep("fill-mask")
    assert outages.outage("fill-mask") is not None


def test_one_replica_of_several_is_enough(clock):
    outages = Outages("app", {"fill-mask": 3}, grace_s=0)
    outages.update(seen("UNHEALTHY", RUNNING=1, STARTING=2))
    clock.s += 100
    assert outages.outage("fill-mask") is None


def test_an_answer_ends_an_outage_before_the_controller_says_so(clock):
    outages = Outages("app", {"fill-mask": 1}, grace_s=0)
    outages.update(seen("UNHEALTHY"))
    assert outages.outage("fill-mask") is not None
    outages.answered("fill-mask")
    assert outages.outage("fill-mask") is None
