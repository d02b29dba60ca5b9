"""How rows are scored and on what: the options a job and a pipeline share, and the actors a cluster has room for.

Does not know where rows come from or go to.
"""

from dataclasses import dataclass, field
from typing import Any

import ray
from ray.data import ActorPoolStrategy

from bigbird.errors import InputError
from pipelines.scoring.actors.score_rows import WINDOW_ROWS
from pipelines.scoring.schemas import InputColumns


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """How rows are scored, whatever they come from and go to.

    task_options: the task's options dataclass of `bigbird.predictors`, None for its defaults. num_actors: size of
    a fixed pool (None: as many as fit the cluster); min_actors and max_actors: a pool that grows and shrinks.
    num_cpus_per_actor: also the threads an actor computes with. num_gpus_per_actor: may be a fraction.
    num_tokenizers: CPU workers that tokenize ahead of the actors (None: one for each actor with a GPU, as far as
    cores are left; without any, an actor tokenizes beside its model).
    window_rows: rows a predictor sees at once and sorts by length.
    """

    columns: InputColumns = field(default_factory=InputColumns)
    task_options: Any = None
    dtype: str = "float32"
    num_actors: int | None = None
    min_actors: int | None = None
    max_actors: int | None = None
    num_cpus_per_actor: float | None = None
    num_gpus_per_actor: float = 0.0
    num_tokenizers: int | None = None
    max_tokens_per_batch: int | None = None
    window_rows: int = WINDOW_ROWS

    def __post_init__(self) -> None:
        for name in ("num_actors", "min_actors", "max_actors", "num_cpus_per_actor", "max_tokens_per_batch"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise InputError(f"{name} is {value}, expected more than 0")
        if self.num_gpus_per_actor < 0 or (self.num_tokenizers or 0) < 0 or self.window_rows < 1:
            raise InputError("num_gpus_per_actor and num_tokenizers must not be negative, and window_rows at least 1")
        if (self.min_actors is None) != (self.max_actors is None):
            raise InputError("min_actors and max_actors go together")
        if self.num_actors is not None and self.max_actors is not None:
            raise InputError("num_actors is a fixed pool, min_actors and max_actors a growing one: give one kind")
        if self.min_actors and self.max_actors and self.min_actors > self.max_actors:
            raise InputError(f"min_actors is {self.min_actors}, more than max_actors {self.max_actors}")

    @property
    def device(self) -> str:
        return "cuda" if self.num_gpus_per_actor else "cpu"


def pool(options: ScoreOptions, most: int | None = None) -> tuple[ActorPoolStrategy, float, int]:
    """The actor pool for the running cluster: strategy, CPUs an actor, and how many actors at most.

    A fixed pool fills the GPUs where actors use them, else the cores: `num_actors * num_cpus_per_actor` is at
    most their number. `most` bounds the pool by what there is to do.
    """
    cluster = ray.cluster_resources()  # type: ignore[no-untyped-call]
    cores, gpus = cluster.get("CPU", 1.0) - (options.num_tokenizers or 0), cluster.get("GPU", 0.0)
    gpu = options.num_gpus_per_actor
    if gpu and gpus < gpu:
        raise InputError(f"an actor is to have {gpu:g} GPUs; the cluster has {gpus:g}")
    if options.num_cpus_per_actor:
        cpus = options.num_cpus_per_actor
    elif options.num_actors and not gpu:
        cpus = float(max(1, int(cores // options.num_actors)))
    else:
        cpus = 1.0 if gpu or cores <= 8 else 4.0
    if cpus > cores:
        besides = f" besides {options.num_tokenizers} tokenizers" if options.num_tokenizers else ""
        raise InputError(f"an actor is to have {cpus:g} CPUs; the cluster has {cores:g}{besides}")
    fits = max(1, int(min(cores // cpus, gpus // gpu if gpu else cores)))
    if options.max_actors is not None and options.min_actors is not None:
        return ActorPoolStrategy(min_size=options.min_actors, max_size=options.max_actors), cpus, options.max_actors
    size = options.num_actors or fits
    if options.num_actors and options.num_actors > fits:
        raise InputError(f"{options.num_actors} actors of {cpus:g} CPUs and {gpu:g} GPUs: the cluster holds {fits}")
    size = min(size, most) if most else size
    return ActorPoolStrategy(size=size), cpus, size


def num_tokenizers(options: ScoreOptions, num_actors: int, cpus: float) -> int:
    """CPU workers that tokenize ahead of `num_actors` actors of `cpus` CPUs; 0 where the actors do it themselves."""
    if options.num_tokenizers is not None:
        return options.num_tokenizers
    if not options.num_gpus_per_actor:
        return 0
    cores: float = ray.cluster_resources().get("CPU", 0.0)  # type: ignore[no-untyped-call]
    return max(0, min(num_actors, int(cores - num_actors * cpus)))
