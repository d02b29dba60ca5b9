"""How rows are scored and on what: the options a job and a pipeline share, and the actors a cluster has room for.

    job_pool    a job's own pool: all the cluster has, and more where it grows
    step_pool   the pool of one step among others: it leaves a core for the steps before and after it

Does not know where rows come from or go to.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.data import ActorPoolStrategy, Dataset

from bigbird.errors import InputError
from pipelines.scoring.actors.score_rows import WINDOW_ROWS
from pipelines.scoring.schemas import InputColumns

# Ray counts shares of a core or GPU in ten-thousandths.
_SHARES = 10_000
LEAST_SHARE = 0.01

# Of each core of an actor, what the task that reads for it declares instead: a node has a reader for every actor.
READER_SHARE = 0.1

Resources = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """How rows are scored, whatever they come from and go to.

    dtype: of the model; "" is bfloat16 where actors have GPUs, else float32. "auto" is each actor's own choice, so that
    scores may differ between unlike machines as the two types do.
    task_options: the task's options dataclass of `bigbird.predictors`, None for its defaults. num_actors: size of
    a fixed pool (None: as many as fit the cluster); min_actors and max_actors: a pool that grows and shrinks.
    num_cpus_per_actor: also the threads an actor computes with. num_gpus_per_actor: may be a fraction.
    num_tokenizers: CPU workers that tokenize ahead of the actors (None: one for each actor with a GPU, as far as
    cores are left; without any, an actor tokenizes beside its model).
    window_rows: rows a predictor sees at once and sorts by length. prefix: of the names of all columns that are added.
    """

    columns: InputColumns = field(default_factory=InputColumns)
    task_options: Any = None
    dtype: str = ""
    num_actors: int | None = None
    min_actors: int | None = None
    max_actors: int | None = None
    num_cpus_per_actor: float | None = None
    num_gpus_per_actor: float = 0.0
    num_tokenizers: int | None = None
    max_tokens_per_batch: int | None = None
    window_rows: int = WINDOW_ROWS
    prefix: str = ""

    def __post_init__(self) -> None:
        for name in ("num_actors", "min_actors", "max_actors", "max_tokens_per_batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}, expected more than 0")
        cpus, gpus = self.num_cpus_per_actor, self.num_gpus_per_actor
        if cpus is not None and not LEAST_SHARE <= cpus < math.inf:
            raise InputError(f"num_cpus_per_actor is {cpus}, expected at least {LEAST_SHARE}")
        if not (gpus == 0 or LEAST_SHARE <= gpus <= 1 or (1 < gpus < math.inf and gpus == int(gpus))):
            raise InputError(f"num_gpus_per_actor is {gpus}, expected 0, {LEAST_SHARE} to 1, or a whole number")
        object.__setattr__(self, "num_gpus_per_actor", math.floor(gpus * _SHARES) / _SHARES)
        if self.num_tokenizers is not None and self.num_tokenizers < 0:
            raise InputError(f"num_tokenizers is {self.num_tokenizers}, expected at least 0")
        if self.window_rows < 1:
            raise InputError(f"window_rows is {self.window_rows}, expected at least 1")
        object.__setattr__(self, "dtype", self.dtype or ("bfloat16" if self.num_gpus_per_actor else "float32"))
        if (self.min_actors is None) != (self.max_actors is None):
            raise InputError("min_actors and max_actors go together")
        if self.num_actors is not None and self.max_actors is not None:
            raise InputError("num_actors is a fixed pool, min_actors and max_actors a growing one: give one kind")
        if self.min_actors and self.max_actors and self.min_actors > self.max_actors:
            raise InputError(f"min_actors is {self.min_actors}, more than max_actors {self.max_actors}")

    @property
    def device(self) -> str:
        return "cuda" if self.num_gpus_per_actor else "cpu"


@dataclass(frozen=True, kw_only=True)
class Pool:
    """The actors of one scoring step, and the CPU workers that tokenize ahead of them.

    cpus: cores an actor computes with. declared_cpus: what it asks of Ray, so that the rest of a core is left to
    whatever feeds it.
    """

    min_size: int
    initial_size: int
    max_size: int
    cpus: float
    declared_cpus: float
    gpus: float = 0.0
    tokenizers: int = 0

    @property
    def strategy(self) -> ActorPoolStrategy:
        return ActorPoolStrategy(min_size=self.min_size, initial_size=self.initial_size, max_size=self.max_size)

    @property
    def num_threads(self) -> int | None:
        return None if self.gpus else max(1, int(self.cpus))


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Resources of the nodes that do work, and of those an autoscaler may add (None: there is no autoscaler)."""

    nodes: Sequence[Resources]
    growth: Sequence[Resources] | None = None

    @staticmethod
    def running() -> "Cluster":
        """The cluster this process is connected to."""
        alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        nodes = [node for node in alive if node.get("CPU")]
        # How Ray Data itself finds out what an autoscaler may add; there is no public name for it.
        config = ray._private.state.state.get_cluster_config()
        if config is None or not config.node_group_configs:
            return Cluster(nodes=nodes)
        growth: list[Resources] = []
        for group in config.node_group_configs:
            most = 1000 if group.max_count < 0 else group.max_count
            growth += [dict(group.resources)] * most if group.resources.get("CPU") else []
        return Cluster(nodes=nodes, growth=growth)

    def total(self, resource: str) -> float:
        return sum(node.get(resource, 0.0) for node in self.nodes)


def job_pool(options: ScoreOptions, num_units: int, actor_bytes: int, cluster: Cluster) -> Pool:
    """The pool of a job of `num_units` units, with actors that need `actor_bytes` of memory.

    It begins with what fits the nodes that are there and grows with the cluster, as far as there are units. A
    cluster without any node that works is waited for.

    Raises InputError where an actor, or a fixed number of them, fits neither the nodes that are there nor those an
    autoscaler may add.
    """
    cpus = _cores_of_an_actor(options, cluster.total("CPU"), max(map(_cpu, cluster.growth or ()), default=0.0))
    gpu, besides = options.num_gpus_per_actor, options.num_tokenizers or 0
    needs = {"CPU": cpus, "GPU": gpu, "memory": actor_bytes}
    fits = sum(num_fitting(node, needs) for node in cluster.nodes)
    if besides and cluster.nodes and not cluster.growth:
        left = max(0, int((cluster.total("CPU") - besides) / cpus))
        if fits and not left:
            raise InputError(
                f"num_tokenizers is {besides}: of the cluster's {cluster.total('CPU'):g} CPUs they leave none to an "
                f"actor of {cpus:g}"
            )
        fits = min(fits, left)
    later = sum(num_fitting(node, needs) for node in cluster.growth or ())
    _refuse_what_never_fits(options, needs, fits, later, cluster)
    if options.num_actors:
        least = initial = most = options.num_actors
    elif options.min_actors and options.max_actors:
        least = initial = options.min_actors
        most = options.max_actors
    else:
        initial, most = max(1, fits), max(fits, num_units)
        least = 1 if cluster.growth else initial
    least, initial, most = (max(1, min(number, num_units)) for number in (least, initial, most))
    tokenizers = besides
    if options.num_tokenizers is None and gpu:
        tokenizers = max(0, min(initial, int(cluster.total("CPU") - initial * cpus)))
    return Pool(
        min_size=least,
        initial_size=initial,
        max_size=most,
        cpus=cpus,
        declared_cpus=round(cpus - reader_cpus(cpus), 4),
        gpus=gpu,
        tokenizers=tokenizers,
    )


def reader_cpus(cpus: float) -> float:
    """What a task declares that reads for an actor of `cpus` cores."""
    return round(READER_SHARE * min(1.0, cpus), 4)


def step_pool(options: ScoreOptions, dataset: Dataset, cluster: Cluster) -> Pool:
    """The pool of a step after `dataset`: it begins small and grows.

    One core is left for the tasks before and after it, and what other pools before it hold from the start.

    Raises InputError for a pool that would leave none: everything would wait for a core for ever.
    """
    every = Cluster(nodes=[*cluster.nodes, *(cluster.growth or ())])
    cores, gpus = every.total("CPU") or 3.0, every.total("GPU")  # of an empty cluster nobody knows what joins it
    gpu = options.num_gpus_per_actor
    if gpu > gpus and every.nodes:
        raise InputError(f"an actor is to have {gpu:g} GPUs; the cluster has {gpus:g}")
    free = max(0.0, cores - 1 - _held_by_pools(dataset) - (options.num_tokenizers or 0))
    cpus = _cores_of_an_actor(options, free)
    least = options.num_actors or options.min_actors or 1
    # Half of what is left, so that another such step still finds room, and a third.
    declared = options.num_cpus_per_actor or min(cpus, free / (2 * least))
    if least * declared > free:
        raise InputError(
            f"{least} actors of {declared:g} CPUs leave none of the cluster's {cores:g} for the steps before and "
            f"after them; {free:g} are to be had"
        )
    most = options.num_actors or options.max_actors or max(1, int(min(free // cpus, gpus // gpu if gpu else free)))
    tokenizers = options.num_tokenizers or 0
    if options.num_tokenizers is None and gpu:
        tokenizers = max(0, min(most, int(free - most * cpus)))
    return Pool(
        min_size=least,
        initial_size=least,
        max_size=most,
        cpus=cpus,
        declared_cpus=round(declared, 4),
        gpus=gpu,
        tokenizers=tokenizers,
    )


def _cores_of_an_actor(options: ScoreOptions, cores: float, cores_of_a_new_node: float = 0.0) -> float:
    cores -= options.num_tokenizers or 0
    if options.num_cpus_per_actor:
        return options.num_cpus_per_actor
    if options.num_gpus_per_actor:
        return 1.0
    if options.num_actors:
        return float(max(1, int(max(cores, cores_of_a_new_node) // options.num_actors)))
    return 1.0 if max(cores, cores_of_a_new_node) <= 8 else 4.0


def num_fitting(node: Resources, needs: Resources) -> int:
    """How many actors a node holds. Several may share a GPU; one actor's share never lies on two."""
    room = [int(node.get(name, 0.0) // needs[name]) for name in ("CPU", "memory") if needs[name]]
    gpu = needs["GPU"]
    if gpu:
        whole = int(node.get("GPU", 0.0))
        room.append(whole * int(1 / gpu + 1e-9) if gpu < 1 else int(whole // gpu))
    return min(room)


def _refuse_what_never_fits(options: ScoreOptions, needs: Resources, fits: int, later: int, cluster: Cluster) -> None:
    every = [*cluster.nodes, *(cluster.growth or ())]
    if not every:
        return  # nodes may join by somebody's hand: the job waits, and says for what
    each = f"{needs['CPU']:g} CPUs, {needs['GPU']:g} GPUs and {needs['memory'] / 2**30:.1f} GiB"
    if not fits + later:
        most = [max(node.get(name, 0.0) for node in every) for name in ("CPU", "GPU", "memory")]
        raise InputError(
            f"no node holds an actor of {each}; the largest have {most[0]:g} CPUs, {most[1]:g} GPUs and "
            f"{most[2] / 2**30:.1f} GiB"
        )
    wanted = options.num_actors or options.min_actors or 1
    if wanted > fits + later:
        raise InputError(f"{wanted} actors of {each} each: the cluster holds {fits + later}")


def _held_by_pools(dataset: Dataset) -> float:
    """CPUs that the actor pools before a step hold from the start."""
    held, pending = 0.0, [dataset._logical_plan.dag]
    while pending:
        step: Any = pending.pop()
        pending += step.input_dependencies
        compute = getattr(step, "compute", None)
        if isinstance(compute, ActorPoolStrategy):
            held += compute.min_size * (step.ray_remote_args.get("num_cpus") or 0)
    return held


def _cpu(node: Resources) -> float:
    return node.get("CPU", 0.0)
