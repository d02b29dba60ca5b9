"""serving.app on a real Ray cluster over real HTTP: every endpoint with the client people use, and the library."""

import json
import os
import re
import signal
import subprocess
import threading
from pathlib import Path

import httpx
import numpy as np
import pytest
import ray
from serving_cluster import deploy, replica_pids, serve_instance, status, tiny_heads, wait_until

from bigbird import BigBirdTokenizer
from bigbird.predictors import OPTIONS, load_predictor

pytestmark = [
    pytest.mark.ray,
    # Ray's own: sockets and subprocesses it leaves to the interpreter's end, and its own deprecations.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]

LONG = "Long documents are read in blocks. Paris is the capital of France; Zürich lies on a lake. " * 60
TEXT = "Paris is the capital of France; Zürich lies on a lake. 東京"
INPUTS = {
    "fill-mask": ["Paris is [MASK] capital of [MASK].", "Long [MASK] are read. " + LONG],
    "masked-lm-scoring": [TEXT, LONG],
    "feature-extraction": [TEXT, LONG],
    "token-classification": [TEXT, LONG],
    "text-classification": [TEXT, {"text": TEXT, "text_pair": "a lake"}, LONG],
    "multiple-choice": [{"prompt": TEXT, "choices": ["a lake", "the capital", "blocks"]}],
    "question-answering": [{"question": "Which capital?", "context": TEXT}, {"question": "What?", "context": LONG}],
}


@pytest.fixture(scope="module")
def checkpoints(tiny_checkpoint, tiny_tokenizer_dir):
    return tiny_heads(tiny_checkpoint, BigBirdTokenizer.from_pretrained(tiny_tokenizer_dir).vocab_size)


@pytest.fixture(scope="module")
def url(checkpoints):
    with serve_instance() as address:
        head = {"num_cpus": 0.1, "max_tokens_per_batch": 2048, "max_tokens_per_request": 20_000}
        heads = {task: {"checkpoint": path, **head} for task, path in checkpoints.items()}
        deploy(address, {"heads": heads, "gateway": {"request_timeout_s": 60, "max_body_bytes": 300_000}})
        yield address


@pytest.fixture(scope="module")
def library(checkpoints):
    """The predictor of a task, as anybody would make it."""
    made = {}

    def get(task):
        if task not in made:
            made[task] = load_predictor(task, checkpoints[task])
        return made[task]

    return get


def post(url, path, body, **options):
    return httpx.post(url + path, json=body, timeout=90, **options)


def close(left, right):
    """Equal, numbers to 1e-4: a batch of other lengths adds in another order."""
    if isinstance(left, dict):
        return isinstance(right, dict) and left.keys() == right.keys() and all(close(left[k], right[k]) for k in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(close(a, b) for a, b in zip(left, right, strict=True))
    if isinstance(left, float):
        return left == pytest.approx(right, rel=1e-4, abs=1e-5)
    return left == right


@pytest.mark.parametrize("task", INPUTS)
def test_the_endpoint_answers_what_the_library_records(url, library, task):
    response = post(url, f"/v1/{task}", {"inputs": INPUTS[task]})
    assert response.status_code == 200, response.text
    answers = response.json()
    records = library(task)(INPUTS[task])
    kept = {
        "fill-mask": lambda r: [[{k: c[k] for k in ("score", "token", "token_str")} for c in m["candidates"]]
                                for m in r["masks"]],
        "masked-lm-scoring": lambda r: {"nll": r["nll"], "pseudo_perplexity": r["pseudo_perplexity"]},
        "feature-extraction": lambda r: r["embedding"],
        "token-classification": lambda r: r["entities"],
        "text-classification": lambda r: r["labels"],
        "multiple-choice": lambda r: {"choices": r["choices"], "best": r["best"]},
        "question-answering": lambda r: {k: r[k] for k in ("answer", "score", "start", "end")},
    }[task]  # fmt: skip
    if task == "fill-mask":
        answers = [[answer] if isinstance(answer[0], dict) else answer for answer in answers]
        answers = [[[{k: v for k, v in c.items() if k != "sequence"} for c in mask] for mask in a] for a in answers]
    assert close(answers, [kept(record) for record in records])
    assert int(response.headers["x-num-tokens"]) == sum(record["num_tokens"] for record in records)
    assert int(response.headers["x-num-windows"]) == sum(record["num_windows"] for record in records)


def test_requests_that_arrive_together_get_what_they_get_alone(url):
    texts = [*(TEXT[:length] for length in range(5, 55, 2)), LONG, LONG[:-1]]
    alone = [post(url, "/v1/token-classification", {"inputs": text}).json() for text in texts]
    together = [None] * len(texts)

    def ask(index):
        together[index] = post(url, "/v1/token-classification", {"inputs": texts[index]}).json()

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(len(texts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert close(alone, together)


def test_parameters_are_the_library_s_options(url, library):
    task = "token-classification"
    options = OPTIONS[task](aggregation_strategy="none", ignore_labels=())
    parameters = {"aggregation_strategy": "none", "ignore_labels": []}
    answer = post(url, f"/v1/{task}", {"inputs": TEXT, "parameters": parameters}).json()
    assert close(answer, library(task)([TEXT], options)[0]["entities"])
    long = {"inputs": LONG, "parameters": {"on_long": "truncate"}}
    assert post(url, f"/v1/{task}", long).headers["x-num-truncated"] == "1"


def test_huggingface_hub_s_client_works_unmodified(url, library):
    from huggingface_hub import InferenceClient

    def client(task):
        return InferenceClient(model=f"{url}/v1/{task}", timeout=90)

    masked = "Paris is [MASK] capital."
    (mask,) = library("fill-mask")([masked])[0]["masks"]
    filled = client("fill-mask").fill_mask(masked, top_k=5)
    assert [item.token for item in filled] == [candidate["token"] for candidate in mask["candidates"]]
    assert filled[0].sequence.startswith("Paris is")
    entities = client("token-classification").token_classification(TEXT, aggregation_strategy="simple")
    wanted = library("token-classification")([TEXT])[0]["entities"]
    assert [(e.entity_group, e.start, e.end) for e in entities] == [
        (e["entity_group"], e["start"], e["end"]) for e in wanted
    ]
    labels = client("text-classification").text_classification(TEXT, top_k=2)
    assert [item.label for item in labels] == [i["label"] for i in library("text-classification")([TEXT])[0]["labels"]][
        :2
    ]
    answer = client("question-answering").question_answering(question="Which capital?", context=TEXT)
    assert TEXT[answer.start : answer.end] == answer.answer
    vectors = client("feature-extraction").feature_extraction(TEXT)
    np.testing.assert_allclose(vectors[0], library("feature-extraction")([TEXT])[0]["embedding"], rtol=1e-4, atol=1e-5)


@pytest.fixture
def openai_client(url):
    import openai

    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=90, max_retries=0) as client:
        yield client


def test_openai_s_client_completes_as_the_library_generates(openai_client, checkpoints):
    from bigbird import load_model
    from bigbird.generation.generate import GenerationOptions, generate

    answer = openai_client.completions.create(
        model="text-generation", prompt=["Long documents", "Paris"], max_tokens=12, temperature=0, logprobs=0
    )
    path = checkpoints["text-generation"]
    wanted = generate(
        load_model(path),
        BigBirdTokenizer.from_pretrained(path),
        ["Long documents", "Paris"],
        GenerationOptions(max_new_tokens=12, logprobs=True),
    )
    assert [choice.text for choice in answer.choices] == [result.text for result in wanted]
    assert [choice.finish_reason for choice in answer.choices] == [result.finish_reason for result in wanted]
    for choice, result in zip(answer.choices, wanted, strict=True):
        np.testing.assert_allclose(choice.logprobs.token_logprobs, result.logprobs, atol=1e-3)
        assert len(choice.logprobs.tokens) == result.num_generated_tokens
    assert answer.usage.prompt_tokens == sum(result.num_prompt_tokens for result in wanted)
    assert answer.usage.completion_tokens == sum(result.num_generated_tokens for result in wanted)


def test_openai_s_client_streams_what_it_completes(openai_client):
    asked = {"model": "text-generation", "prompt": "Paris is", "max_tokens": 24, "temperature": 0.8, "seed": 5, "n": 2}
    whole = openai_client.completions.create(**asked)
    texts, usage, num_chunks = ["", ""], None, 0
    for chunk in openai_client.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        num_chunks += 1
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [choice.text for choice in whole.choices]
    assert texts[0] != texts[1], "the copies draw from different seeds"
    assert usage == whole.usage
    assert num_chunks > 2


def test_completions_echo_stop_and_take_token_ids(openai_client):
    plain = openai_client.completions.create(model="text-generation", prompt="Paris is", max_tokens=20, temperature=0)
    text = plain.choices[0].text
    stop = text[6:9]
    stopped = openai_client.completions.create(
        model="text-generation", prompt="Paris is", max_tokens=20, temperature=0, stop=[stop], echo=True
    )
    assert stopped.choices[0].text == "Paris is" + text[: text.index(stop)]
    assert stopped.choices[0].finish_reason == "stop"
    by_ids = openai_client.completions.create(model="text-generation", prompt=[20, 30, 40], max_tokens=4)
    assert by_ids.usage.prompt_tokens == 3


def test_openai_s_client_embeds_and_lists(openai_client, library, checkpoints):
    import openai

    answer = openai_client.embeddings.create(model="feature-extraction", input=[TEXT, LONG])
    for item, record in zip(answer.data, library("feature-extraction")([TEXT, LONG]), strict=True):
        expected = np.array(record["embedding"]) / np.linalg.norm(record["embedding"])
        np.testing.assert_allclose(item.embedding, expected, rtol=1e-4, atol=1e-5)
    ids = BigBirdTokenizer.from_pretrained(checkpoints["feature-extraction"])(TEXT, add_special_tokens=False)[
        "input_ids"
    ]
    by_ids = openai_client.embeddings.create(model="feature-extraction", input=list(ids))
    np.testing.assert_allclose(by_ids.data[0].embedding, answer.data[0].embedding, rtol=1e-4, atol=1e-5)
    with pytest.raises(openai.APIStatusError, match=r"input.0: token id 1000000.*check_embedding_ctx_length=False"):
        openai_client.embeddings.create(model="feature-extraction", input=[[10**6]])
    assert openai_client.models.retrieve("fill-mask").id == "fill-mask"
    assert {model.id for model in openai_client.models.list()} == set(checkpoints)


def test_openai_s_client_sees_its_own_exceptions(openai_client):
    import openai

    with pytest.raises(openai.NotFoundError, match="text-generation"):
        openai_client.completions.create(model="gpt", prompt="a")
    with pytest.raises(openai.UnprocessableEntityError, match="max_new_tokens must be at most 512"):
        openai_client.completions.create(model="text-generation", prompt="a", max_tokens=5000)


def test_curl_gets_json(url):
    body = json.dumps({"inputs": INPUTS["multiple-choice"][0]})
    command = ["curl", "-sS", f"{url}/v1/multiple-choice", "-H", "Content-Type: application/json", "-d", body]
    answer = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)
    assert len(answer["choices"]) == 3


@pytest.mark.parametrize(
    ("status", "kind", "request_"),
    [
        (400, "malformed_json", {"content": b"{", "headers": {"Content-Type": "application/json"}}),
        (404, "unknown_head", {"path": "/v1/summarization", "json": {}}),
        (404, "not_found", {"path": "/v2", "json": {}}),
        (405, "method_not_allowed", {"method": "GET"}),
        (413, "payload_too_large", {"json": {"inputs": "x" * 400_000}}),
        (415, "unsupported_media_type", {"content": b"inputs"}),
        (422, "invalid_input", {"json": {"inputs": ["a [MASK]", ""]}}),
        (422, "invalid_input", {"json": {"inputs": "no mask"}}),
        (422, "invalid_input", {"path": "/v1/token-classification", "json": {"inputs": [LONG] * 20}}),
        (422, "invalid_input", {"json": {"inputs": "a [MASK]", "parameters": {"max_length": 100_000}}}),
        (422, "invalid_input", {"json": {"inputs": "[MASK]" + LONG, "parameters": {"on_long": "error"}}}),
        (504, "deadline_exceeded", {"json": {"inputs": "a [MASK]"}, "headers": {"X-Request-Timeout-Seconds": "0.003"}}),
    ],
)
def test_every_refusal_has_its_status_and_the_one_body(url, status, kind, request_):
    given = dict(request_)
    response = httpx.request(given.pop("method", "POST"), url + given.pop("path", "/v1/fill-mask"), timeout=90, **given)
    error = response.json()["error"]
    assert set(error) == {"type", "message", "param"}
    assert response.status_code == status, response.text
    assert error["type"] == kind


def test_a_bad_input_among_good_ones_is_named(url):
    error = post(url, "/v1/fill-mask", {"inputs": ["a [MASK]", ""]}).json()["error"]
    assert error["param"] == "inputs.1"


def test_request_ids_come_back_and_stand_in_the_log(url):
    response = post(url, "/v1/fill-mask", {"inputs": "a [MASK]"}, headers={"X-Request-ID": "find-me-7"})
    assert response.headers["x-request-id"] == "find-me-7"
    logs = Path(ray._private.worker._global_node.get_session_dir_path()) / "logs" / "serve"

    def entry():
        for file in logs.glob("replica_bigbird_gateway_*.log"):
            for line in file.read_text().splitlines():
                if "find-me-7" in line and "POST /v1/fill-mask 200" in line:
                    return json.loads(line)
        return None

    wait_until(entry)
    assert entry()["bigbird_request_id"] == "find-me-7"
    assert entry()["status"] == 200
    assert entry()["num_tokens"] >= 2


def test_a_client_that_leaves_frees_its_slots(url):
    def details():
        heads = {head["task"]: head for head in httpx.get(f"{url}/info", timeout=90).json()["heads"]}
        return heads["text-generation"]["details"]

    before = details()["num_generated_tokens"]
    body = {"model": "text-generation", "prompt": "Paris", "max_tokens": 500, "min_tokens": 500, "n": 16}
    with httpx.stream("POST", f"{url}/v1/completions", json={**body, "stream": True}, timeout=90) as response:
        next(response.iter_lines())
    wait_until(lambda: details()["num_running"] == 0)
    assert details()["num_used_cache_tokens"] == 0
    assert details()["num_generated_tokens"] - before < 16 * 500


@pytest.mark.parametrize("killed", ["text-generation", "gateway"])
def test_a_stream_whose_process_is_killed_ends_with_an_error_event(url, killed):
    body = {"model": "text-generation", "prompt": "Paris", "max_tokens": 500, "min_tokens": 500, "n": 16}
    lines = []
    with httpx.stream("POST", f"{url}/v1/completions", json={**body, "stream": True}, timeout=90) as response:
        for line in response.iter_lines():
            if not lines:
                for pid in replica_pids(killed):
                    os.kill(pid, signal.SIGKILL)
            if line:
                lines.append(line.removeprefix("data: "))
    assert json.loads(lines[-1])["error"]["type"] == "head_unavailable"
    wait_until(lambda: status(f"{url}/ready") == 200)


def test_info_tells_limits_and_labels(url, checkpoints):
    info = httpx.get(f"{url}/info", timeout=90).json()
    heads = {head["task"]: head for head in info["heads"]}
    assert heads.keys() == checkpoints.keys()
    assert heads["token-classification"]["details"]["labels"] == ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    assert heads["fill-mask"]["details"]["max_position_embeddings"] == 512
    assert info["limits"]["max_body_bytes"] == 300_000
    assert info["versions"]["ray"] == ray.__version__


def test_metrics_reach_prometheus_by_head(url):
    post(url, "/v1/fill-mask", {"inputs": 3})
    post(url, "/v1/completions", {"model": "text-generation", "prompt": "Paris", "max_tokens": 5})
    (node,) = ray.nodes()
    endpoint = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    wanted = [
        r'ray_bigbird_requests_total{[^}]*head="fill-mask"[^}]*status="200"',
        r'ray_bigbird_errors_total{[^}]*head="fill-mask"[^}]*kind="invalid_input"',
        r'ray_bigbird_tokens_total{[^}]*head="fill-mask"',
        r'ray_bigbird_queue_seconds_bucket{[^}]*head="fill-mask"',
        r'ray_bigbird_tokenize_seconds_count{[^}]*head="fill-mask"',
        r'ray_bigbird_model_seconds_sum{[^}]*head="fill-mask"',
        r'ray_bigbird_batch_tokens_bucket{[^}]*head="fill-mask"',
        r'ray_bigbird_time_to_first_token_seconds_count{[^}]*head="text-generation"',
        r'ray_bigbird_generated_tokens_total{[^}]*head="text-generation"',
        r'ray_bigbird_running_generations{[^}]*head="text-generation"',
        r'ray_bigbird_time_per_output_token_seconds_count{[^}]*head="text-generation"',
        r'ray_bigbird_prompt_tokens_total{[^}]*head="text-generation"',
        r'ray_bigbird_finished_generations_total{[^}]*head="text-generation"[^}]*reason="(stop|length)"',
        r'ray_bigbird_cache_used_share{[^}]*head="text-generation"',
        r'ray_bigbird_load_seconds{[^}]*head="fill-mask"',
        r"ray_bigbird_requests_in_flight{",
    ]
    missing = wanted

    def complete():
        nonlocal missing
        post(url, "/v1/fill-mask", {"inputs": "a [MASK]"})
        text = httpx.get(endpoint, timeout=90).text
        missing = [pattern for pattern in wanted if not re.search(pattern, text)]
        return not missing

    try:
        wait_until(complete)
    except AssertionError:
        pytest.fail(f"not exported: {missing}")


def test_fuzzing_the_documented_api_finds_no_500(url):
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    from hypothesis import HealthCheck, settings

    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    found = []
    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(
            max_examples=12, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
        )
        def check(case):
            response = case.call(timeout=90)
            if response.status_code >= 500 and response.status_code != 504:
                found.append((case.method, case.path, response.status_code, case.body, response.text[:300]))

        operation.as_strategy()
        from hypothesis import given

        given(case=operation.as_strategy())(check)()
    assert found == []
