"""What every serving scenario works on: a local cluster with Serve, two checkpoints, texts of known lengths."""

import random
import sysconfig
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import ray
import torch
from ray import serve

from benchmarks.serving_parts.load import Answers, Body, closed_loop
from bigbird import BigBirdConfig, BigBirdForCausalLM, BigBirdForTokenClassification, load_predictor
from serving.app import PROXY_TIMEOUT_S, build
from serving.batches.arguments import BatchArguments
from serving.http.edge import haproxy
from serving.http.edge.proxy import SERVE_ENVIRONMENT
from serving.preflight import free_port
from serving.settings import HeadArguments, ServeArguments

TASK = "token-classification"
GENERATION = "text-generation"
TOKENIZER = Path("checkpoints/fill-mask/tokenizer.json")
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128},
    "demo": {"hidden_size": 128, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 512},
    "base": {},
}
SHORT_TOKENS, LONG_TOKENS = 100, 4000

# A line of the table: what was measured, and the figure.
Row = tuple[str, str]


class Bench:
    """One cluster for all scenarios of a run; takes_jobs: Ray's jobs too. `seconds`: of one measurement of the scenario
    that runs."""

    def __init__(self, size: str, num_threads: int, ingress: str = "serve", *, takes_jobs: bool = False) -> None:
        self.seconds = 0.0
        self.num_threads = num_threads
        torch.set_num_threads(num_threads)
        config = BigBirdConfig(vocab_size=8192, id2label={0: "O", 1: "B-X", 2: "I-X"}, sep_token_id=5, **SIZES[size])
        decoder = config.replace(is_decoder=True, attention_type="original_full")
        self.checkpoint = _saved(BigBirdForTokenClassification(config))
        self.decoder = _saved(BigBirdForCausalLM(decoder))
        ray.init(
            address="local",
            num_cpus=16,  # replicas reserve what they like: the machine is shared by all of them anyway
            include_dashboard=takes_jobs,
            log_to_driver=False,
            logging_level="ERROR",
            # Ray's workers give way to everything else on a machine, and so to the clients beside them.
            _system_config={"worker_niceness": 0},
        )
        environment = dict(SERVE_ENVIRONMENT)
        self._folder = tempfile.TemporaryDirectory(prefix="bigbird-", dir="/tmp")  # of HAProxy
        if ingress == "haproxy":
            environment |= haproxy.environment(Path(self._folder.name), free_port())
        port = free_port()
        serve.start(
            http_options={"host": "127.0.0.1", "port": port, "request_timeout_s": PROXY_TIMEOUT_S},
            controller_options={"runtime_env": {"env_vars": environment}},
        )
        self.address = f"http://127.0.0.1:{port}"
        self.url = f"{self.address}/v1/{TASK}"
        self.predictor = load_predictor(TASK, self.checkpoint, max_tokens_per_batch=8192)
        source = "".join(
            path.read_text(errors="ignore") for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:60]
        )
        self._offsets = self.predictor.tokenizer.encode_batch(source[:400_000], add_special_tokens=False).offsets
        self._source = source

    def close(self) -> None:
        serve.shutdown()  # type: ignore[no-untyped-call]
        ray.shutdown()
        self._folder.cleanup()

    def text(self, num_tokens: int, chance: random.Random) -> str:
        """Python source of about so many tokens, from anywhere."""
        first = chance.randrange(len(self._offsets) - num_tokens)
        return self._source[self._offsets[first][0] : self._offsets[first + num_tokens - 1][1]]

    def deploy(self, *, generation: bool = False, batches: BatchArguments | None = None, **head: Any) -> None:
        """Serves the scoring head, and the generating one and batches where asked for, and warms them."""
        settings = {"num_cpus": self.num_threads, "max_tokens_per_batch": 8192, **head}
        heads = {TASK: HeadArguments(checkpoint=self.checkpoint, **settings)}
        if generation:
            heads[GENERATION] = HeadArguments(checkpoint=self.decoder, **settings)
        serve.run(build(ServeArguments(heads=heads, batches=batches)), name="bigbird")
        self.post({"inputs": "warm " * 200})

    def post(self, body: Body) -> httpx.Response:
        return httpx.post(self.url, json=body, timeout=120, trust_env=False).raise_for_status()

    def short(self, chance: random.Random) -> tuple[str, Body]:
        return "short", {"inputs": self.text(SHORT_TOKENS, chance)}

    def mixture(self, share_long: float) -> Callable[[random.Random], tuple[str, Body]]:
        def make(chance: random.Random) -> tuple[str, Body]:
            if chance.random() < share_long:
                return "long", {"inputs": self.text(LONG_TOKENS, chance)}
            return self.short(chance)

        return make

    def bodies(self, lengths: Sequence[int]) -> list[Body]:
        chance = random.Random(1)
        return [{"inputs": self.text(length, chance)} for length in lengths]

    def capacity(self, bodies: list[Body], clients: int = 16) -> Answers:
        closed_loop(self.url, bodies, clients=4, seconds=2)
        return closed_loop(self.url, bodies, clients=clients, seconds=self.seconds)

    def details(self) -> dict[str, dict[str, Any]]:
        """What each head says of itself."""
        heads = httpx.get(f"{self.address}/info", timeout=60, trust_env=False).json()["heads"]
        return {head["task"]: head["details"] or {} for head in heads}


def replicas(task: str = TASK) -> int:
    """Replicas of a head that answer, by what Serve's controller says."""
    states = serve.status().applications["bigbird"].deployments[task].replica_states
    return sum(count for state, count in states.items() if str(getattr(state, "value", state)) == "RUNNING")


def wait_for(condition: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not so after {timeout_s:.0f} s")
        time.sleep(0.2)


def _saved(model: Any) -> str:
    directory = tempfile.mkdtemp(prefix="bigbird-bench-")
    model.save_pretrained(directory)
    (Path(directory) / "tokenizer.json").write_bytes(TOKENIZER.read_bytes())
    return directory
