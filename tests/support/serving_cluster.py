"""Serve on a small Ray cluster of this process, on free ports: one for all modules that serve something."""

import contextlib
import os
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from local_cluster import free_base
from ray_session import OF_RAY, start_ray

from benchmarks.serving_parts.processes import replica_pids  # noqa: F401  (for the tests)
from bigbird import (
    BigBirdForCausalLM,
    BigBirdForMaskedLM,
    BigBirdForMultipleChoice,
    BigBirdForQuestionAnswering,
    BigBirdForSequenceClassification,
    BigBirdForTokenClassification,
)

with warnings.catch_warnings():
    # Serve's own models use a spelling that pydantic deprecates.
    warnings.simplefilter("ignore")
    from ray import serve

    from serving.app import build, grpc_options
from serving.http.edge.proxy import SERVE_ENVIRONMENT
from serving.settings import ServeArguments

SERVED = [pytest.mark.ray, pytest.mark.xdist_group("served"), OF_RAY]
APP = "bigbird"
LABELS = {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC", 4: "I-LOC"}
NLI_LABELS = {0: "entailment", 1: "neutral", 2: "contradiction"}
# Limits of what ends at once on a machine that is not busy with something else.
START_TIMEOUT_S = 150.0
REQUEST_TIMEOUT_S = 90.0


@dataclass(frozen=True)
class Instance:
    """A running Serve: the address of its HTTP proxy, and the port of its gRPC proxy."""

    url: str
    grpc_port: int


_running: list[Instance] = []


def serve_instance(*, include_dashboard: bool = False) -> Instance:
    """Serve without an application: that of the module before, where its Ray still runs."""
    # A proxy of the machine must not be asked for 127.0.0.1.
    os.environ.setdefault("NO_PROXY", "127.0.0.1,localhost")
    is_new = start_ray(
        num_cpus=8,  # replicas reserve fractions; the machine has fewer cores, and the models are tiny
        object_store_memory=100 * 2**20,
        logging_level="ERROR",
        include_dashboard=include_dashboard,
        runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}},
    )
    if is_new:
        port = free_base("127.0.0.1")
        serve.start(
            http_options={"host": "127.0.0.1", "port": port, "request_timeout_s": REQUEST_TIMEOUT_S},
            grpc_options=grpc_options(port + 1),
            controller_options={"runtime_env": {"env_vars": SERVE_ENVIRONMENT}},
            # Only what a client's own trace asks for is recorded, into files beside the logs.
            tracing_config={"enabled": True, "sampling_ratio": 0.0},
        )
        _running[:] = [Instance(f"http://127.0.0.1:{port}", port + 1)]
    return _running[0]


@contextlib.contextmanager
def served(arguments: dict[str, Any], *, include_dashboard: bool = False) -> Iterator[Instance]:
    """The application with these arguments, ready; gone afterwards. include_dashboard: where jobs are submitted."""
    instance = serve_instance(include_dashboard=include_dashboard)
    try:
        deploy(instance.url, arguments)
        yield instance
    finally:
        serve.delete(APP)


def deploy(url: str, arguments: dict[str, Any]) -> None:
    """Deploys (or updates) the application and waits until it is ready."""
    serve.run(build(ServeArguments.model_validate(arguments)), name=APP)
    wait_until_ready(url)


def wait_until_ready(url: str) -> None:
    """Waits as long as replicas may take to start on a busy machine, and fails with what the service last said."""
    said: list[str] = []

    def ready() -> bool:
        try:
            answer = httpx.get(f"{url}/ready", timeout=10)
        except httpx.TransportError as error:
            said.append(repr(error))
            return False
        said.append(f"{answer.status_code} {answer.text}")
        return answer.status_code == 200

    try:
        wait_until(ready, START_TIMEOUT_S)
    except AssertionError:
        pytest.fail(f"not ready after {START_TIMEOUT_S:.0f} s: {said[-1]}\n{serve.status()}")


def status(url: str) -> int | None:
    """The status of the answer, None where there is none in time."""
    try:
        return httpx.get(url, timeout=10).status_code
    except httpx.TransportError:
        return None


def wait_until(condition: Callable[[], Any], timeout_s: float = 90.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "still not so after the time limit"
        time.sleep(0.1)


def tiny_heads(tiny_checkpoint: Callable[..., Path], vocab_size: int) -> dict[str, str]:
    """A tiny checkpoint for every head; models with logits of words have as many words as their tokenizer."""
    masked_lm = str(tiny_checkpoint(BigBirdForMaskedLM, vocab_size=vocab_size))
    causal = tiny_checkpoint(BigBirdForCausalLM, is_decoder=True, attention_type="original_full", vocab_size=vocab_size)
    return {
        "fill-mask": masked_lm,
        "masked-lm-scoring": masked_lm,
        "feature-extraction": masked_lm,
        "token-classification": str(tiny_checkpoint(BigBirdForTokenClassification, id2label=LABELS)),
        "text-classification": str(tiny_checkpoint(BigBirdForSequenceClassification, num_labels=3)),
        "zero-shot-classification": str(tiny_checkpoint(BigBirdForSequenceClassification, id2label=NLI_LABELS)),
        "multiple-choice": str(tiny_checkpoint(BigBirdForMultipleChoice)),
        "question-answering": str(tiny_checkpoint(BigBirdForQuestionAnswering)),
        "text-generation": str(causal),
    }
