"""Ray and Serve for one test module: a small cluster of its own on free ports, gone afterwards."""

import contextlib
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import ray

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

    from serving.app import build
from serving.settings import ServeArguments

APP = "bigbird"
LABELS = {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC", 4: "I-LOC"}
START_TIMEOUT_S = 150.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def serve_instance(*, request_timeout_s: float = 90) -> Iterator[str]:
    """A Ray cluster with Serve on it and no application; yields the address of its HTTP proxy."""
    # A proxy of the machine must not be asked for 127.0.0.1.
    os.environ.setdefault("NO_PROXY", "127.0.0.1,localhost")
    _start_ray()
    port = free_port()
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port, "request_timeout_s": request_timeout_s})
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()
        ray.shutdown()


def _start_ray(attempts: int = 4) -> None:
    """Ray gives a node 30 s to start, which a busy machine may not manage at once."""
    for attempt in range(attempts):
        try:
            ray.init(
                address="local",  # never a cluster that somebody else has on this machine
                num_cpus=8,  # replicas reserve fractions; the machine has fewer cores, and the models are tiny
                include_dashboard=False,
                object_store_memory=100 * 2**20,
                log_to_driver=False,
                logging_level="ERROR",
                # Ray's workers give way to everything else on a machine; here they are what is waited for.
                _system_config={"worker_niceness": 0},
                runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}},
            )
            return
        except Exception as error:
            ray.shutdown()
            if "timed out" not in str(error) or attempt == attempts - 1:
                raise


def deploy(url: str, arguments: dict[str, Any]) -> None:
    """Deploys (or updates) the application and waits until it is ready."""
    serve.run(build(ServeArguments.model_validate(arguments)), name=APP)
    wait_until(lambda: httpx.get(f"{url}/ready", timeout=10).status_code == 200, START_TIMEOUT_S)


def wait_until(condition: Callable[[], Any], timeout_s: float = 30.0) -> None:
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
        "multiple-choice": str(tiny_checkpoint(BigBirdForMultipleChoice)),
        "question-answering": str(tiny_checkpoint(BigBirdForQuestionAnswering)),
        "text-generation": str(causal),
    }


def replica_pids(deployment: str) -> list[int]:
    """Processes of a deployment's living replicas, among the descendants of this process."""
    found, parents = [], {}
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # "pid (name) state parent ...": a name may hold spaces and brackets, so count from its end
            parents[int(directory.name)] = int((directory / "stat").read_text().rpartition(")")[2].split()[1])
            title = (directory / "cmdline").read_bytes().decode(errors="replace").strip("\0 ")
            if title.partition(".")[0] == f"ray::ServeReplica:{APP}:{deployment}":
                found.append(int(directory.name))
    return [pid for pid in found if _descends(pid, parents)]


def _descends(pid: int, parents: dict[int, int]) -> bool:
    while pid in parents:
        pid = parents[pid]
        if pid == os.getpid():
            return True
    return False
