"""openai's client, unmodified, and curl against a real server."""

import json
import subprocess

import numpy as np
import pytest
from endpoint_inputs import INPUTS, LONG, TEXT
from serving_cluster import SERVED

from bigbird import BigBirdTokenizer

pytestmark = SERVED


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
    with pytest.raises(
        openai.BadRequestError, match="maximum context length is 512 tokens, however you requested 5002"
    ):
        openai_client.completions.create(model="text-generation", prompt="a", max_tokens=5000)
    for changes, param, code in (
        ({"max_tokens": 5000}, "max_tokens", "context_length_exceeded"),
        ({"temperature": 3}, "temperature", "decimal_above_max_value"),
        ({"n": 0}, "n", "integer_below_min_value"),
        ({"prompt": 5}, "prompt", "invalid_type"),
        ({"presence_penalty": 1}, "presence_penalty", "unsupported_parameter"),
        ({"extra_body": {"tools": []}}, "tools", "unknown_parameter"),
        ({"model": "gpt"}, "model", "model_not_found"),
    ):
        with pytest.raises(openai.APIStatusError) as caught:
            openai_client.completions.create(**{"model": "text-generation", "prompt": "a", **changes})
        assert (caught.value.param, caught.value.code) == (param, code)


def test_curl_gets_json(url):
    body = json.dumps({"inputs": INPUTS["multiple-choice"][0]})
    command = ["curl", "-sS", f"{url}/v1/multiple-choice", "-H", "Content-Type: application/json", "-d", body]
    answer = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)
    assert len(answer["choices"]) == 3
