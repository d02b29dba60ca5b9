"""What a job says of itself while nothing is done yet. Waiting for real CPUs: tests/pipelines/test_score.py."""

from pipelines.scoring.progress import waiting


def test_a_job_waits_for_an_actor_only_while_its_request_is_queued_whatever_others_take_and_give_back():
    needs, cluster = {"CPU": 2 - 1.1, "GPU": 0.5}, {"CPU": 8.0, "GPU": 1.0}
    asked = {"CPU": 0.9, "GPU": 0.5}
    said = "waiting for an actor (0.9 CPUs, 0 of 8 are free; 0.5 GPUs, 1 of 1 are free in the cluster)"
    assert waiting(needs, cluster, {"GPU": 1.0}, [{"CPU": 4.0}, asked]) == said
    assert waiting(needs, cluster, {"CPU": 1.1, "GPU": 0.5}, []) == "starting actors"
    assert waiting(needs, cluster, {"CPU": 1.1, "GPU": 0.5}, [{"CPU": 0.9}]) == "starting actors", "another's request"
