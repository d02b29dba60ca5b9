"""Several models a task on a real Serve instance: chosen by name, added and removed while the others go on."""

import os
import re
import shutil
import threading

import httpx
import pytest
import ray
from endpoint_inputs import TEXT, close, post
from serving_cluster import APP, START_TIMEOUT_S, replica_pids, serve, serve_instance, status, wait_until

from bigbird import BigBirdForTokenClassification
from bigbird.predictors import OPTIONS, load_predictor

pytestmark = [
    pytest.mark.ray,
    # Ray's own: sockets and subprocesses it leaves to the interpreter's end, and its own deprecations.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]

NER = "token-classification"
ALL_LABELS = {"ignore_labels": []}


@pytest.fixture(scope="module")
def checkpoints(tiny_checkpoint, tmp_path_factory):
    """Two taggers that differ in their labels, which tests may change."""
    folder = tmp_path_factory.mktemp("taggers")
    for name in ("a", "b"):
        labels = {index: f"{name.upper()}{index}" for index in range(3)}
        shutil.copytree(tiny_checkpoint(BigBirdForTokenClassification, id2label=labels), folder / name)
    return {name: str(folder / name) for name in ("a", "b")}


@pytest.fixture(scope="module")
def expected(checkpoints):
    """What the library says of TEXT with each checkpoint."""
    options = OPTIONS[NER](ignore_labels=())
    return {name: load_predictor(NER, path)([TEXT], options)[0]["entities"] for name, path in checkpoints.items()}


@pytest.fixture(scope="module")
def url(checkpoints):
    with serve_instance() as address:
        apply(address, arguments(checkpoints, "a", "b"))
        wait_until(lambda: settled("a", "b") and status(f"{address}/ready") == 200, START_TIMEOUT_S)
        yield address


def arguments(checkpoints, *names, **changes):
    heads = {f"ner-{name}": {"task": NER, "checkpoint": checkpoints[name[0]], "num_cpus": 0.1} for name in names}
    return {"heads": heads, **changes}


def apply(url, arguments):
    """As `serve deploy` does: a configuration to the controller, which builds the application in a task."""
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    config = {
        "proxy_location": "HeadOnly",
        "http_options": {"host": "127.0.0.1", "port": int(url.rpartition(":")[2])},
        "applications": [{"name": APP, "route_prefix": "/", "import_path": "serving.app:build", "args": arguments}],
    }
    _get_global_client().deploy_apps(ServeDeploySchema.model_validate(config))


def pids(*names):
    return {name: replica_pids(f"ner-{name}") for name in names}


def settled(*names):
    """Whether the application runs as it was told, with one replica each of these heads."""
    running = serve.status().applications[APP].status == "RUNNING"
    return running and all(len(found) == 1 for found in pids(*names).values())


def tags(url, path=f"/v1/{NER}", **options):
    response = post(url, path, {"inputs": TEXT, "parameters": ALL_LABELS}, **options)
    return response.json() if response.status_code == 200 else response.text


def test_each_model_answers_what_its_own_checkpoint_does_and_the_first_without_a_name(url, expected):
    for name in ("a", "b"):
        assert close(tags(url, f"/v1/models/ner-{name}/{NER}"), expected[name])
    assert close(tags(url), expected["a"])


def test_models_are_added_and_removed_without_a_failed_request_and_without_touching_the_others(
    url, checkpoints, expected
):
    before, failed, stop = pids("a", "b"), [], threading.Event()

    def ask():
        while not stop.wait(0.1):
            if not close(answer := tags(url), expected["a"]):
                failed.append(answer)

    client = threading.Thread(target=ask)
    client.start()
    try:
        added = arguments(checkpoints, "a", "b", "b2")
        added["heads"]["ner-a"]["max_replicas"] = 2  # Serve changes this while a replica runs
        os.utime(f"{checkpoints['b']}/model.safetensors")  # as weights written anew
        apply(url, added)
        wait_until(lambda: status(f"{url}/v1/models/ner-b2") == status(f"{url}/ready") == 200, START_TIMEOUT_S)
        assert close(tags(url, f"/v1/models/ner-b2/{NER}"), expected["b"])
        wait_until(lambda: pids("b")["b"] != before["b"] and settled("a", "b"), START_TIMEOUT_S)
        after = pids("a", "b")
        assert after["a"] == before["a"], "nothing of it changed"
        assert after["b"] != before["b"], "its weights did"
        apply(url, arguments(checkpoints, "a", "b"))
        wait_until(lambda: status(f"{url}/v1/models/ner-b2") == 404 and not pids("b2")["b2"])
        assert pids("a", "b") == after
    finally:
        stop.set()
        client.join()
    assert failed == []


def test_a_route_is_rolled_back_by_configuration_alone_and_its_shadow_is_counted(url, checkpoints, expected):
    before = pids("a", "b")
    routes = {"canary": {"split": {"ner-a": 50, "ner-b": 50}, "default": True}}
    apply(url, arguments(checkpoints, "a", "b", routes=routes))
    wait_until(lambda: status(f"{url}/v1/models/canary") == 200)

    def who(number):
        answer = tags(url, headers={"X-Request-ID": f"r{number}"})
        return next(name for name in expected if close(answer, expected[name]))

    wait_until(lambda: who(1) != who(2) or who(3) != who(4) or who(5) != who(6))
    answered = [who(number) for number in range(20)]
    assert set(answered) == {"a", "b"}
    assert [who(number) for number in range(20)] == answered, "a request sent again stays with its model"
    routes["canary"] = {"split": {"ner-a": 1}, "shadow": "ner-b", "default": True}
    apply(url, arguments(checkpoints, "a", "b", routes=routes))
    wait_until(lambda: {who(number) for number in range(20)} == {"a"})
    assert pids("a", "b") == before
    (node,) = ray.nodes()
    metrics = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    counted = r'ray_bigbird_shadow_answers_total{[^}]*head="ner-a"[^}]*outcome="different"[^}]*shadow="ner-b"'
    wait_until(lambda: tags(url) and re.search(counted, httpx.get(metrics, timeout=90).text))
