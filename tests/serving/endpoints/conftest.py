"""One server with every head for the tests of this folder."""

import pytest
from serving_cluster import served, tiny_heads

from bigbird import BigBirdTokenizer
from bigbird.predictors import load_predictor


@pytest.fixture(scope="package")
def checkpoints(tiny_checkpoint, tiny_tokenizer_dir):
    return tiny_heads(tiny_checkpoint, BigBirdTokenizer.from_pretrained(tiny_tokenizer_dir).vocab_size)


@pytest.fixture(scope="package")
def instance(checkpoints):
    head = {"num_cpus": 0.1, "max_tokens_per_batch": 2048, "max_tokens_per_request": 20_000}
    heads = {task: {"checkpoint": path, **head} for task, path in checkpoints.items()}
    gateway = {"request_timeout_s": 60, "max_body_bytes": 300_000, "open_without_keys": True}
    with served({"heads": heads, "gateway": gateway}) as running:
        yield running


@pytest.fixture(scope="package")
def url(instance):
    return instance.url


@pytest.fixture(scope="package")
def library(checkpoints):
    """The predictor of a task, as anybody would make it."""
    made = {}

    def get(task):
        if task not in made:
            made[task] = load_predictor(task, checkpoints[task])
        return made[task]

    return get
