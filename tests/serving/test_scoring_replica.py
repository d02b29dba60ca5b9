"""A scoring replica without Serve around it: what it refuses before any work is done."""

import asyncio
import threading

import pytest

from bigbird import BigBirdForTokenClassification
from serving.settings import HeadArguments

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")  # as Serve is imported


def test_too_many_open_requests_are_refused_for_all_as_long_as_the_model_has_work(tiny_checkpoint, monkeypatch):
    from serving.replicas.scoring import ScoringReplica

    checkpoint = tiny_checkpoint(BigBirdForTokenClassification, num_labels=3)
    replica = ScoringReplica(
        "legal", HeadArguments(task="token-classification", checkpoint=str(checkpoint), max_queued_requests=1)
    )
    request = {"inputs": ["the first block"], "options": {}, "timeout_s": 60.0}
    reached, gate = threading.Event(), threading.Event()

    def held(prepared):
        reached.set()
        gate.wait()
        return replica._predictor.forward(prepared)

    async def main():
        assert "records" in await replica.score(request)  # the rate is known afterwards
        monkeypatch.setattr(replica._ordinary, "_forward", held)
        first = asyncio.create_task(replica.score(request))
        await asyncio.to_thread(reached.wait)
        try:
            refused = await replica.score(request)
        finally:
            gate.set()
        assert "records" in await first
        return refused["failure"]

    failure = asyncio.run(main())
    assert (failure["kind"], failure["message"]) == ("overloaded", "1 requests are here, the limit is 1")
    assert failure["busy_s"] > 0
