"""One server with every head for the tests of this folder, in this process: no Ray."""

import pytest
from direct_server import DirectServer
from serving_cluster import tiny_heads

from bigbird import BigBirdForSequenceClassification, BigBirdTokenizer
from bigbird.predictors import load_predictor
from serving.settings import GatewayArguments, HeadArguments

# Heads whose name is not their task.
TASKS = {"reranker": "text-classification"}


@pytest.fixture(scope="package")
def checkpoints(tiny_checkpoint, tiny_tokenizer_dir):
    heads = tiny_heads(tiny_checkpoint, BigBirdTokenizer.from_pretrained(tiny_tokenizer_dir).vocab_size)
    return {**heads, "reranker": str(tiny_checkpoint(BigBirdForSequenceClassification, num_labels=1))}


@pytest.fixture(scope="package")
def url(checkpoints):
    head = {"max_tokens_per_batch": 2048, "max_tokens_per_request": 20_000}
    heads = {
        name: HeadArguments(task=TASKS.get(name, name), checkpoint=path, **head) for name, path in checkpoints.items()
    }
    server = DirectServer(heads, GatewayArguments(request_timeout_s=60))
    yield server.url
    server.close()


@pytest.fixture(scope="package")
def library(checkpoints):
    """The predictor of a head, as anybody would make it."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = load_predictor(TASKS.get(name, name), checkpoints[name])
        return made[name]

    return get
