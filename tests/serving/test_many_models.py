"""Several models a task on a real Serve instance: chosen by name, added and removed while the others go on."""

import os
import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import ray
from endpoint_inputs import TEXT, close, post
from serving_cluster import APP, SERVED, START_TIMEOUT_S, replica_pids, serve, serve_instance, status, wait_until

from bigbird import BigBirdForSequenceClassification, BigBirdForTokenClassification
from bigbird.predictors import OPTIONS, load_predictor

pytestmark = SERVED

NER = "token-classification"
RANK = "text-classification"
ALL_LABELS = {"ignore_labels": []}


@pytest.fixture(scope="module")
def checkpoints(tiny_checkpoint, tmp_path_factory):
    """Two taggers that differ in their labels, a cross-encoder and one without weights; tests may change them."""
    folder = tmp_path_factory.mktemp("taggers")
    for name in ("a", "b"):
        labels = {index: f"{name.upper()}{index}" for index in range(3)}
        shutil.copytree(tiny_checkpoint(BigBirdForTokenClassification, id2label=labels), folder / name)
    shutil.copytree(tiny_checkpoint(BigBirdForSequenceClassification, num_labels=1), folder / "rank")
    shutil.copytree(folder / "rank", folder / "damaged")
    (folder / "damaged" / "model.safetensors").write_bytes(b"no weights")
    return {name: str(folder / name) for name in ("a", "b", "rank", "damaged")}


@pytest.fixture(scope="module")
def expected(checkpoints):
    """What the library says of TEXT with each checkpoint."""
    options = OPTIONS[NER](ignore_labels=())
    return {name: load_predictor(NER, checkpoints[name])([TEXT], options)[0]["entities"] for name in "ab"}


@pytest.fixture(scope="module")
def url(checkpoints):
    address = serve_instance().url
    apply(address, arguments(checkpoints, "a", "b"))
    wait_until(lambda: settled("a", "b") and status(f"{address}/ready") == 200, START_TIMEOUT_S)
    yield address
    serve.delete(APP)


def arguments(checkpoints, *names, **changes):
    heads = {f"ner-{name}": {"task": NER, "checkpoint": checkpoints[name[0]], "num_cpus": 0.1} for name in names}
    return {"heads": heads, "gateway": {"open_without_keys": True}, **changes}


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


def metrics():
    (node,) = ray.nodes()
    return httpx.get(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics", timeout=90).text


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
    counted = r'ray_bigbird_shadow_answers_total{[^}]*head="ner-a"[^}]*outcome="different"[^}]*shadow="ner-b"'
    wait_until(lambda: tags(url) and re.search(counted, metrics()))


def test_heads_of_a_pool_share_a_replica_that_keeps_as_many_loaded_as_it_may(url, checkpoints, expected):
    before = pids("a", "b")

    def pooled(task, name):
        return {"task": task, "checkpoint": checkpoints[name], "pool": "small"}

    settings = arguments(checkpoints, "a", "b", pools={"small": {"max_models": 2, "num_cpus": 0.1}})
    settings["heads"] |= {f"p{number}": pooled(NER, name) for number, name in enumerate("abab")}
    settings["heads"] |= {"rank": pooled(RANK, "rank"), "broken": pooled(RANK, "damaged")}
    apply(url, settings)
    wait_until(lambda: status(f"{url}/v1/models/p3") == status(f"{url}/ready") == 200, START_TIMEOUT_S)
    assert pids("a", "b") == before
    (pid,) = replica_pids("small")

    def states():
        return httpx.get(f"{url}/ready", timeout=90).json()["heads"]

    def loaded():
        return {name for name, state in states().items() if state == "ready" and not name.startswith("ner")}

    assert loaded() == set(), "asking how a head is loads none"
    assert states()["p1"] == "asleep"
    heads = {head["name"]: head for head in httpx.get(f"{url}/info", timeout=90).json()["heads"]}
    assert heads["p1"]["details"]["labels"] == ["B0", "B1", "B2"]
    for number, name in enumerate("abab"):
        assert close(tags(url, f"/v1/models/p{number}/{NER}"), expected[name])
        wait_until(lambda last=number: loaded() == {f"p{last}", *({f"p{last - 1}"} if last else ())})
    answer = post(url, f"/v1/models/broken/{RANK}", {"inputs": TEXT})
    assert answer.status_code == 503
    assert answer.json()["error"].startswith("broken cannot be loaded: ")
    wait_until(lambda: states()["broken"] == "cannot be loaded")
    assert status(f"{url}/ready") == 200, "its neighbours answer"
    heads = {head["name"]: head for head in httpx.get(f"{url}/info", timeout=90).json()["heads"]}
    assert (heads["p0"]["state"], heads["broken"]["state"]) == ("asleep", "cannot be loaded")
    assert heads["broken"]["details"]["error"].startswith("broken cannot be loaded: ")
    assert close(tags(url, f"/v1/models/p2/{NER}"), expected["a"])
    ranked = post(url, "/rerank", {"query": "q", "documents": [TEXT]}).json()
    assert ranked["model"] == "rank", "known by its configuration"
    pair = {"text": "q", "text_pair": TEXT}
    (record,) = load_predictor(RANK, checkpoints["rank"])([pair], OPTIONS[RANK](function_to_apply="sigmoid"))
    assert ranked["results"][0]["relevance_score"] == pytest.approx(record["labels"][0]["score"], abs=1e-4)

    def asked(number):
        return close(tags(url, f"/v1/models/p{number % 4}/{NER}"), expected["abab"[number % 4]])

    with ThreadPoolExecutor(8) as clients:
        assert all(clients.map(asked, range(48))), "while each drops another"
    assert replica_pids("small") == [pid]
    counted = r'ray_bigbird_tokens_total{[^}]*head="(p\d|rank|broken)"'
    wait_until(lambda: set(re.findall(counted, metrics())) == {"p0", "p1", "p2", "p3", "rank"})
