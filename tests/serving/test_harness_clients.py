"""Programs that score and complete texts over OpenAI's protocol, unmodified: lm-eval, LangChain, litellm, LlamaIndex.

A gateway and a replica over real HTTP, without Ray. What is not installed is skipped, and says so.
"""

import json
import os
import subprocess

import numpy as np
import pytest
import torch
from direct_server import DirectServer

from bigbird import BigBirdTokenizer, load_model
from bigbird.generation.generate import GenerationOptions, generate
from bigbird.predictors import load_predictor
from serving.settings import EMBEDDING, GENERATION, GatewayArguments, HeadArguments

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
CHECKPOINT = "checkpoints/text-generation"
ENCODER = "checkpoints/fill-mask"
CONTEXT = "def read_lines(path):\n    with open(path) as file:\n        return"
INSTALL = "install the extra named clients"


@pytest.fixture(scope="module")
def url():
    heads = {GENERATION: CHECKPOINT, EMBEDDING: ENCODER}
    server = DirectServer(
        {task: HeadArguments(task=task, checkpoint=checkpoint) for task, checkpoint in heads.items()},
        GatewayArguments(),
    )
    yield server.url
    server.close()


@pytest.fixture(scope="module")
def tokenizer():
    return BigBirdTokenizer.from_pretrained(CHECKPOINT)


@pytest.fixture(scope="module")
def model():
    return load_model(CHECKPOINT).eval()


def loglikelihood(model, ids, num_context):
    """Of ids[num_context:], by the library's own forward; and whether each of them is the likeliest."""
    with torch.inference_mode():
        logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    new = range(num_context, len(ids))
    total = sum(float(logprobs[place - 1, ids[place]]) for place in new)
    return total, all(int(logprobs[place - 1].argmax()) == ids[place] for place in new)


@pytest.mark.parametrize("tokenized", [True, False])
def test_lm_eval_s_local_completions_gives_the_library_s_loglikelihoods(url, model, tokenizer, tokenized, monkeypatch):
    pytest.importorskip("lm_eval", reason=INSTALL)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from lm_eval.api.instance import Instance
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    harness = LocalCompletionsAPI(
        model="text-generation", base_url=f"{url}/v1/completions", tokenizer=CHECKPOINT, batch_size=2,
        tokenizer_backend="huggingface", tokenized_requests=tokenized, max_length=4096,
    )  # fmt: skip
    start = [] if tokenized else [tokenizer.cls_token_id]
    context = [*start, *tokenizer.encode(CONTEXT, add_special_tokens=False)]
    (likeliest,) = generate(model, tokenizer, [context], GenerationOptions(max_new_tokens=2))
    pairs = [(CONTEXT, text) for text in (" file.read().splitlines()", " banana", likeliest.text)]
    asked = [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]
    given = harness.loglikelihood(asked, disable_tqdm=True)
    for (_, text), (total, is_greedy) in zip(pairs, given, strict=True):
        ids = [*context, *tokenizer.encode(text, add_special_tokens=False)]
        wanted, wanted_greedy = loglikelihood(model, ids, len(context))
        assert (total, is_greedy) == (pytest.approx(wanted, abs=1e-3), wanted_greedy)
    assert [is_greedy for _, is_greedy in given] == [False, False, True]
    if tokenized:
        (rolling,) = harness.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (CONTEXT,), 0)], True)
        ids = [harness.prefix_token_id, *context]
        assert rolling == pytest.approx(loglikelihood(model, ids, 1)[0], abs=1e-3)


def greedy(model, tokenizer, prompt, num_tokens):
    (result,) = generate(model, tokenizer, [prompt], GenerationOptions(max_new_tokens=num_tokens))
    return result.text


def test_langchain_completes_and_streams(url, model, tokenizer):
    langchain_openai = pytest.importorskip("langchain_openai", reason=INSTALL)
    client = langchain_openai.OpenAI(
        base_url=f"{url}/v1", api_key="none", model="text-generation", temperature=0, max_tokens=8, max_retries=0
    )
    wanted = greedy(model, tokenizer, CONTEXT, 8)
    assert client.invoke(CONTEXT) == wanted
    assert "".join(client.stream(CONTEXT)) == wanted
    assert client.batch([CONTEXT, "import"]) == [wanted, greedy(model, tokenizer, "import", 8)]


def test_litellm_completes_and_streams(url, model, tokenizer, monkeypatch):
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # otherwise it asks the internet when it is imported
    litellm = pytest.importorskip("litellm", reason=INSTALL)
    asked = {"model": "text-completion-openai/text-generation", "api_base": f"{url}/v1", "api_key": "none",
             "prompt": CONTEXT, "max_tokens": 8, "temperature": 0}  # fmt: skip
    wanted = greedy(model, tokenizer, CONTEXT, 8)
    assert litellm.text_completion(**asked).choices[0].text == wanted
    chunks = litellm.text_completion(**asked, stream=True)
    assert "".join(chunk.choices[0].text or "" for chunk in chunks) == wanted


LLAMA_INDEX = """
import json, sys
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike
url, prompt, *texts = sys.argv[1:]
server = {"api_base": url, "api_key": "none", "max_retries": 0}
llm = OpenAILike(model="text-generation", is_chat_model=False, max_tokens=8, temperature=0, **server)
embedding = OpenAILikeEmbedding(model_name="feature-extraction", **server)
streamed = "".join(part.delta for part in llm.stream_complete(prompt))
print(json.dumps([llm.complete(prompt).text, streamed, embedding.get_text_embedding_batch(texts)]))
"""


def test_llama_index_completes_streams_and_embeds(url, model, tokenizer):
    python = os.environ.get("LLAMA_INDEX_PYTHON")
    if not python:
        pytest.skip("LLAMA_INDEX_PYTHON names no python with LlamaIndex (`make clients` sets it)")
    texts = ["a lake", "Paris is a city."]
    asked = [python, "-c", LLAMA_INDEX, f"{url}/v1", CONTEXT, *texts]
    whole, streamed, embeddings = json.loads(subprocess.check_output(asked, text=True, timeout=120))
    assert whole == streamed == greedy(model, tokenizer, CONTEXT, 8)
    wanted = np.array([record["embedding"] for record in load_predictor(EMBEDDING, ENCODER)(texts)])
    np.testing.assert_allclose(embeddings, wanted / np.linalg.norm(wanted, axis=1, keepdims=True), atol=1e-4)


def test_openai_s_documented_loop_over_the_models_leads_to_one_that_completes(url):
    import openai

    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        name = client.models.list().data[0].id
        answer = client.completions.create(model=name, prompt="", max_tokens=2, logprobs=5, echo=True)
        assert len(answer.choices[0].logprobs.top_logprobs[0]) in (5, 6)
        with pytest.raises(openai.APIStatusError, match="presence_penalty: not served"):
            client.completions.create(model=name, prompt="a", presence_penalty=0.5)
