"""The arguments of `serving.app:build`, typed and validated: heads, their checkpoints, budgets, and the gateway.

Every field can come from a config file's `args:`, from `serve run ... key=value`, or from the command line. It
knows nothing of Ray; what a value means is written beside it.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, field_validator, model_validator

from serving.batches.arguments import BatchArguments
from serving.names import absolute, check_name, read_heads

SCORING_TASKS = (
    "fill-mask",
    "token-classification",
    "text-classification",
    "zero-shot-classification",
    "multiple-choice",
    "question-answering",
    "feature-extraction",
    "masked-lm-scoring",
)
EMBEDDING = "feature-extraction"
GENERATION = "text-generation"
ALL_HEADS = (*SCORING_TASKS, GENERATION)

# What the proxy in front keeps of a request, to send it again when the gateway that had it dies.
MAX_BODY_BYTES = 32 * 2**20

# The shipped models are small, and all of them run side by side on a laptop.
_SHIPPED_NUM_CPUS = 0.1


class Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class HeadDefaults(Arguments):
    """What a replica of a head needs, how many there are, and its queue."""

    device: str = Field(default="cpu", description="cpu, cuda, cuda:0, ...")
    dtype: Literal["float32", "bfloat16", "int8", "auto"] | None = Field(
        default=None,
        description="None: bfloat16 on GPUs, else float32. auto: bfloat16 where the replica computes it faster.",
    )

    num_cpus: PositiveFloat = Field(default=1.0, description="CPUs of a replica; also the threads of its model.")
    num_gpus: float = Field(default=0.0, ge=0)

    min_replicas: int = Field(default=1, ge=0, description="0: the head sleeps until a request comes.")
    max_replicas: PositiveInt = 1
    target_ongoing_requests: PositiveFloat = Field(default=8.0, description="Requests a replica should have at a time.")
    upscale_delay_s: float = Field(default=10.0, ge=0)
    downscale_delay_s: float = Field(default=300.0, ge=0)

    max_tokens_per_batch: PositiveInt = Field(default=8192, description="Tokens the model reads at once.")
    max_tokens_per_request: PositiveInt = Field(
        default=262_144, description="Tokens of all inputs of a request together."
    )
    max_queued_requests: PositiveInt = Field(
        default=256, description="Per replica; beyond it a request is refused (429)."
    )
    max_queued_tokens: PositiveInt = Field(
        default=1_000_000, description="Per replica; beyond it a request is refused (429)."
    )
    max_queue_wait_s: PositiveFloat = Field(
        default=20.0, description="A longer wait, by the measured time of a batch, is refused (429)."
    )
    max_forward_s: PositiveFloat = Field(
        default=600.0, description="A batch or a step that runs longer makes its replica unhealthy: Serve replaces it."
    )

    max_slots: PositiveInt = Field(default=16, description="text-generation: requests that generate at the same time.")
    max_cached_tokens: PositiveInt | None = Field(
        default=None, description="text-generation: tokens of the cache of all slots; what the model needs by default."
    )

    @model_validator(mode="after")
    def _check_replicas(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas is {self.max_replicas}, below min_replicas, which is {self.min_replicas}")
        return self


class HeadArguments(HeadDefaults):
    """One head: its task, its checkpoint and all of the above."""

    task: str = Field(default="", description="What it does; may be left out where the head is named after its task.")
    checkpoint: str = Field(description="Directory, or id on the Hugging Face hub.")
    pool: str | None = Field(
        default=None, description="Share the replicas of this pool, which says everything but task and checkpoint."
    )
    default: bool = Field(
        default=False, description="Answers requests that name no model; without one, the task's first head does."
    )


class PoolArguments(HeadDefaults):
    """Replicas that scoring heads share, with one queue a loaded head; all of the above holds for each of them."""

    max_models: PositiveInt = Field(
        default=3,
        description="Heads that a replica holds in memory, beside dropped ones that still answer; the one asked "
        "longest ago makes room.",
    )


class RouteArguments(Arguments):
    """A name that leads to heads of one task, and changes where it leads without any head being started anew."""

    split: dict[str, Annotated[float, Field(ge=0)]] = Field(
        min_length=1, description="Head -> its share of the requests, such as {a: 95, b: 5}."
    )
    shadow: str | None = Field(
        default=None, description="A head that answers every request too, unseen: differences are counted and logged."
    )
    default: bool = Field(default=False, description="As a head's.")


class GatewayArguments(Arguments):
    """The HTTP side: replicas, limits on what a request may hold, keys."""

    min_replicas: PositiveInt = 1
    max_replicas: PositiveInt = 1
    target_ongoing_requests: PositiveFloat = 64.0
    num_cpus: float = Field(default=0.1, ge=0, description="CPUs to reserve; it computes little.")
    max_body_bytes: PositiveInt = Field(default=8 * 2**20, le=MAX_BODY_BYTES)
    max_inputs_per_request: PositiveInt = Field(default=128, le=1024)
    max_characters_per_request: PositiveInt = Field(
        default=2 * 2**20, description="Of all inputs together: eight for each of the tokens a request may have."
    )
    request_timeout_s: PositiveFloat = Field(default=60.0, description="Also the most a client may ask for.")
    outage_grace_s: float = Field(
        default=45.0,
        ge=0,
        description="How long a head may be without a replica before requests are answered with 503.",
    )
    cors_origins: tuple[str, ...] = Field(
        default=(), description="Origins of web pages that may call; none by default."
    )
    api_keys_file: str | None = Field(
        default=None, description="File with one key a line, and its limits; read again when it changes."
    )
    api_keys_variable: str | None = Field(default=None, description="Environment variable with keys, comma-separated.")
    open_without_keys: bool = Field(
        default=False,
        description="Serve everybody who reaches the port. Otherwise a server without keys listens on loopback only.",
    )


class ServeArguments(Arguments):
    """Everything. `heads` maps a name to `HeadArguments`, or a task to its checkpoint.

    Any number of heads may have the same task: requests choose by name, and one of them is the task's default. `routes`
    maps further names to `RouteArguments`.

    Without `heads`, every checkpoint in `checkpoints` whose directory is named after a task is served, and the
    heads that need no weights of their own (masked-lm-scoring, feature-extraction) on the fill-mask checkpoint.
    `head_defaults` holds for every head, where the head itself does not say otherwise.
    """

    head_defaults: HeadDefaults = Field(default_factory=HeadDefaults)
    heads: dict[str, HeadArguments] = Field(default_factory=dict)
    routes: dict[str, RouteArguments] = Field(default_factory=dict)
    pools: dict[str, PoolArguments] = Field(default_factory=dict)
    checkpoints: str = "checkpoints"
    gateway: GatewayArguments = Field(default_factory=GatewayArguments)
    batches: BatchArguments | None = Field(default=None, description="Serves /v1/files and /v1/batches.")
    log_encoding: Literal["JSON", "TEXT"] = "JSON"

    @field_validator("heads", mode="before")
    @classmethod
    def _read_heads(cls, value: Any) -> Any:
        """Accepts `task=checkpoint,name:task=checkpoint` and JSON, which is what a command line can say."""
        if isinstance(value, str):
            value = read_heads(value)
        return {name: _with_task(name, head) for name, head in value.items()} if isinstance(value, dict) else value

    @field_validator("head_defaults", "routes", "pools", "gateway", "batches", mode="before")
    @classmethod
    def _read_json(cls, value: Any) -> Any:
        return json.loads(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        for name, head in self.heads.items():
            check_name("head", name)
            self._check_pool(name, head)
            if head.task not in ALL_HEADS:
                what = f"unknown head {name}" if head.task == name else f"head {name}: unknown task {head.task!r}"
                raise ValueError(f"{what}; the heads are {', '.join(ALL_HEADS)}, or NAME with one of them as its task")
            if name in ALL_HEADS and head.task != name:
                raise ValueError(f"head {name}: its task is {head.task}; a task's name is for a head of that task")
        tasks = {name: head.task for name, head in self.heads.items()}
        for name in self.pools:
            check_name("pool", name, self.heads, self.routes)
            if not any(head.pool == name for head in self.heads.values()):
                raise ValueError(f"pool {name}: no head is in it")
        for name, route in self.routes.items():
            tasks[name] = self._task_of_route(name, route)
        for task, number in Counter(tasks[name] for name in self.defaults).items():
            if number > 1:
                of_task = ", ".join(name for name in self.defaults if tasks[name] == task)
                raise ValueError(f"{task} has {number} defaults, {of_task}; it can have one")
        return self

    def _check_pool(self, name: str, head: HeadArguments) -> None:
        if head.pool is None:
            return
        if head.pool not in self.pools:
            raise ValueError(
                f"head {name}: no pool {head.pool!r}; the pools are {', '.join(self.pools) or 'not named'}"
            )
        if head.task == GENERATION:
            raise ValueError(f"head {name}: {GENERATION} has a replica of its own, not one of a pool")
        if own := head.model_fields_set & HeadDefaults.model_fields.keys():
            raise ValueError(f"head {name}: {', '.join(sorted(own))} is for pool {head.pool} to say")

    @property
    def defaults(self) -> list[str]:
        """The heads and routes that say they are their task's default."""
        heads = [name for name, head in self.heads.items() if head.default]
        return heads + [name for name, route in self.routes.items() if route.default]

    def _task_of_route(self, name: str, route: RouteArguments) -> str:
        """The one task of its heads. Raises ValueError for a route that cannot be."""
        check_name("route", name, self.heads)
        asked = [*route.split, *([route.shadow] if route.shadow else [])]
        for head in asked:
            if head not in self.heads:
                raise ValueError(
                    f"route {name}: no head {head!r}; the heads are {', '.join(self.heads) or 'not named'}"
                )
        named = {head: self.heads[head].task for head in asked}
        task = next(iter(named.values()))
        if len(set(named.values())) > 1:
            raise ValueError(f"route {name}: {', '.join(f'{head} is for {its}' for head, its in named.items())}")
        if name in ALL_HEADS and name != task:
            raise ValueError(f"route {name}: its heads are for {task}")
        if not any(route.split.values()):
            raise ValueError(f"route {name}: the shares of split are all 0")
        if route.shadow and route.split.get(route.shadow):
            raise ValueError(f"route {name}: shadow {route.shadow} has a share of the requests itself")
        if route.shadow and task == GENERATION:
            raise ValueError(f"route {name}: shadow compares records, and {GENERATION} gives none")
        return task

    def resolved_heads(self) -> dict[str, HeadArguments]:
        """The heads to serve, checkpoints as absolute paths: replicas run elsewhere. Raises ValueError without any."""
        heads = self.heads or shipped_heads(Path(self.checkpoints))
        if not heads:
            raise ValueError(f"no heads given, and {self.checkpoints}/ has no directory named after a task")
        defaults = self.head_defaults.model_dump(exclude_unset=True)
        if not self.heads:
            defaults = {"num_cpus": _SHIPPED_NUM_CPUS, **defaults}
        resolved = {}
        for name, head in heads.items():
            given = head.model_dump(exclude_unset=True)
            if head.pool is not None:
                given = {**self.pools[head.pool].model_dump(exclude_unset=True, exclude={"max_models"}), **given}
            resolved[name] = HeadArguments(**{**defaults, **given, "checkpoint": absolute(head.checkpoint)})
        return resolved

    def resolved_pools(self) -> dict[str, PoolArguments]:
        """The pools that heads share, with `head_defaults` where they do not say otherwise."""
        defaults = self.head_defaults.model_dump(exclude_unset=True)
        return {
            name: PoolArguments(**{**defaults, **pool.model_dump(exclude_unset=True)})
            for name, pool in self.pools.items()
        }


def shipped_heads(root: Path) -> dict[str, HeadArguments]:
    """A head for every checkpoint directory in `root` that is named after a task."""
    heads = {
        task: HeadArguments(task=task, checkpoint=str(root / task))
        for task in ALL_HEADS
        if (root / task / "config.json").is_file()
    }
    if "fill-mask" in heads:
        for task in ("masked-lm-scoring", "feature-extraction"):
            heads.setdefault(task, heads["fill-mask"].model_copy(update={"task": task}))
    return {task: heads[task] for task in ALL_HEADS if task in heads}


def _with_task(name: str, head: Any) -> Any:
    """The head's fields as they were given, with its task, which is its name where it has none."""
    if isinstance(head, HeadArguments):
        head = head.model_dump(exclude_unset=True)
    elif isinstance(head, str):
        head = {"checkpoint": head}
    return {**head, "task": head.get("task") or name} if isinstance(head, dict) else head
