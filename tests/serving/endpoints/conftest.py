"""One server with every head for the tests of this folder."""

import pytest
from local_cluster import free_base
from serving_cluster import deploy, serve_instance, tiny_heads

from bigbird import BigBirdTokenizer
from bigbird.predictors import load_predictor


@pytest.fixture(scope="package")
def checkpoints(tiny_checkpoint, tiny_tokenizer_dir):
    return tiny_heads(tiny_checkpoint, BigBirdTokenizer.from_pretrained(tiny_tokenizer_dir).vocab_size)


@pytest.fixture(scope="package")
def grpc_port():
    return free_base("127.0.0.1") + 1


@pytest.fixture(scope="package")
def url(checkpoints, grpc_port):
    # Only what a client's own trace asks for is recorded, into files beside the logs.
    with serve_instance(tracing_config={"enabled": True, "sampling_ratio": 0.0}, grpc_port=grpc_port) as address:
        head = {"num_cpus": 0.1, "max_tokens_per_batch": 2048, "max_tokens_per_request": 20_000}
        heads = {task: {"checkpoint": path, **head} for task, path in checkpoints.items()}
        deploy(
            address,
            {
                "heads": heads,
                "gateway": {"request_timeout_s": 60, "max_body_bytes": 300_000, "open_without_keys": True},
            },
        )
        yield address


@pytest.fixture(scope="package")
def library(checkpoints):
    """The predictor of a task, as anybody would make it."""
    made = {}

    def get(task):
        if task not in made:
            made[task] = load_predictor(task, checkpoints[task])
        return made[task]

    return get
