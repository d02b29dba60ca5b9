"""What is left of a job in tokens, hours and money, from a sample of its rows.

    draw      strata of rows by length                              (estimate.sample)
    tokenize  each stratum's rows: tokens to a byte of text
    time      as many actors as share a machine, at once, on the same rows: seconds to a token of each stratum

Hours are those of the actors the start would have, or of `num_actors`, each as fast as one here. The range is two
standard errors of the sample, and not less than a tenth: machines differ from themselves by that much.
"""

import dataclasses
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from bigbird.errors import InputError
from pipelines.scoring.actors.pool import Cluster, Pool
from pipelines.scoring.actors.score_rows import ScoreRows, Stage
from pipelines.scoring.actors.tokenize_rows import by_score, pack
from pipelines.scoring.checks import ModelInfo
from pipelines.scoring.estimate.sample import Sample, Stratum, draw
from pipelines.scoring.inputs.units import PREPARED, UNITS_PER_ACTOR
from pipelines.scoring.plan import Job, plan_job
from pipelines.scoring.report.cost import ESTIMATE_SUFFIX
from pipelines.scoring.storage import make_writable, write_whole
from pipelines.scoring.work import find_work

TIMED_S = 40.0
LEAST_ERROR = 0.05  # half of the tenth that is the least range
_FIRST_TOKENS = 4096


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Tokens of the rows left. tokens: as records count them. read: by the model, with special tokens, windows and
    passes. lost: cut off. doubled: read in two windows. error: standard error of `tokens`, as a share."""

    tokens: float
    read: float
    lost: float
    doubled: float
    truncated: float
    error: float


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What is left of a job will take. seconds: with `starting_s`, from the command until the actors are ready.
    taken: when this was found out. error_s: standard error of `seconds`."""

    rows: int
    sampled: int
    found: Tokens
    actors: int
    machines: int
    seconds: float
    error_s: float
    starting_s: float
    price_per_hour: float | None
    taken: float

    @property
    def lines(self) -> list[str]:
        """For a person."""
        found, hours, error = self.found, self.seconds / 3600, self.error_s / self.seconds
        lines = [
            f"rows       {self.rows:,} to score, {self.sampled:,} of them tokenized",
            f"tokens     {found.tokens:,.0f}  ({_spread(found.tokens, found.error, ',.0f')})",
            f"truncated  {found.lost:,.0f} tokens lost, of {found.truncated:,.0f} rows",
            f"windows    {found.doubled:,.0f} tokens read twice",
            f"actors     {self.actors:,} on {self.machines:,} {'machine' if self.machines == 1 else 'machines'}",
            f"hours      {hours:,.3g}  ({_spread(hours, error)}), with {self.starting_s:,.0f} s to start",
        ]
        if self.price_per_hour is not None:
            cost = hours * self.price_per_hour * self.machines
            each = cost / max(found.tokens, 1) * 1e6
            lines.append(f"cost       {cost:,.4g}  ({_spread(cost, error)}), {each:,.3g} a million tokens")
        return lines


def estimate(
    job: Job,
    *,
    load: Callable[..., Any],
    inspect: Callable[..., ModelInfo],
    say: Callable[[str], None],
    seed: int = 0,
) -> list[str]:
    """What is left of a job will take, as lines for a person; `OUTPUT.estimate.json` keeps it for the report.

    Of more actors than fit here, each is taken to be as fast as one here. Starts Ray where it is not running.
    Raises InputError or CheckpointError for whatever a start would refuse.
    """
    asked, began = job.options.num_actors, time.monotonic()
    plan = plan_job(job, load, inspect, say)
    try:
        work = find_work(job, plan)
    except InputError:
        if asked is None:
            raise
        work = find_work(_without_number(job), plan)
    looking_s = time.monotonic() - began  # a start looks too, and starts Ray where it is not running
    if work.pool is None:
        return ["nothing is left to score"]
    written = work.ledger.output.beside(ESTIMATE_SUFFIX)
    make_writable(written.folder, "folder of the estimate")
    sample = draw(work.plan, work.ledger, job.limit, seed)
    say(f"sample: {sample.num_read:,} rows read, drawn over all files")
    prepared = [tokenized(work.plan.stage, stratum) for stratum in sample.strata]
    found = extrapolated(sample, prepared)
    say(f"timing {sum(map(len, prepared)):,} of them for at most {TIMED_S:.0f} s")
    beside = max(1, math.ceil(work.pool.initial_size / max(1, len(Cluster.running().nodes))))
    rates, loading_s = _timed(work.plan.stage, work.pool, beside, sample, prepared)
    actors = asked or work.pool.initial_size
    busy = sum(read_by(s, p) * rate for s, p, rate in zip(sample.strata, prepared, rates.mean(axis=0), strict=True))
    starting_s = looking_s + loading_s
    # The last units keep some actors busy and leave others idle: for half a unit, on the average.
    units = max(len(work.units), min(work.rows, UNITS_PER_ACTOR * actors))
    seconds = starting_s + busy / min(actors, units) + busy / units / 2
    spread = float(rates.mean(axis=1).std() / rates.mean()) if len(rates) > 1 and rates.any() else 0.0
    result = Estimate(
        rows=work.rows,
        sampled=sum(map(len, prepared)),
        found=found,
        actors=actors,
        machines=math.ceil(actors / beside),
        seconds=seconds,
        error_s=max(LEAST_ERROR, math.hypot(found.error, spread)) * seconds,
        starting_s=starting_s,
        price_per_hour=job.price_per_hour,
        taken=time.time(),
    )
    write_whole(written, json.dumps(asdict(result), indent=1).encode())
    return result.lines


def _without_number(job: Job) -> Job:
    return dataclasses.replace(job, options=dataclasses.replace(job.options, num_actors=None))


def tokenized(stage: Stage, stratum: Stratum) -> list[tuple[Any, ...]]:
    """The rows of a stratum as the predictors of all scores prepare them, Failed for those that they cannot."""
    rows = stage.examples(stratum.rows)
    return list(zip(*stage.predictors(weights=False).preprocess(by_score(rows)), strict=True))


def read_by(stratum: Stratum, prepared: Sequence[tuple[Any, ...]]) -> float:
    """Tokens that a model reads for all rows of a stratum."""
    return stratum.num_bytes * _per_byte(stratum, prepared, "num_model_tokens")


def extrapolated(sample: Sample, prepared: Sequence[Sequence[tuple[Any, ...]]]) -> Tokens:
    """The tokens of all rows, from those of the rows that were tokenized."""
    pairs = list(zip(sample.strata, prepared, strict=True))

    def total(what: str) -> float:
        return sum(stratum.num_bytes * _per_byte(stratum, rows, what) for stratum, rows in pairs)

    tokens, variance = total("num_tokens"), 0.0
    for stratum, rows in pairs:
        counts, n = _counts(rows, "num_tokens"), len(rows)
        left = counts - stratum.lengths * counts.sum() / stratum.lengths.sum()
        mean = stratum.lengths.mean()
        if n > 1 and stratum.num_bytes > stratum.lengths.sum():
            variance += (stratum.num_bytes / mean) ** 2 * float((left**2).sum()) / (n * (n - 1))
    error = math.hypot(sample.error, math.sqrt(variance) / max(tokens, 1))
    return Tokens(
        tokens=tokens,
        read=total("num_model_tokens"),
        lost=total("num_lost"),
        doubled=total("num_doubled"),
        truncated=total("truncated"),
        error=error,
    )


class TimedActor:
    """One actor as a job would have it, which scores rows and says how long it took."""

    def __init__(self, stage: Stage) -> None:
        self.scorer = ScoreRows(stage)

    def ready(self) -> float:
        """When it could begin."""
        return time.time()

    def seconds(self, strata: Sequence[tuple[pa.Table, Sequence[int]]], budget_s: float) -> list[float]:
        """Seconds to a token that the model reads, of each stratum: rows and how many tokens are read for each."""
        rates = []
        for table, tokens in strata:
            self.scorer(table.slice(0, 1))  # what is done for the first time only
            first, spent, done, size = 0, 0.0, 0, _FIRST_TOKENS
            while first < table.num_rows and spent < budget_s / len(strata):
                last = first + max(1, int(np.searchsorted(np.cumsum(tokens[first:]), size)))
                began = time.perf_counter()
                self.scorer(table.slice(first, last - first))
                spent += time.perf_counter() - began
                done += sum(tokens[first:last])
                first, size = last, size * 2
            rates.append(spent / max(done, 1))
        return rates


def _timed(
    stage: Stage, pool: Pool, beside: int, sample: Sample, prepared: Sequence[Sequence[tuple[Any, ...]]]
) -> tuple[np.ndarray, float]:
    """Seconds to a token, (actors, strata), of `beside` actors at once; and seconds until they were ready."""
    began = time.time()
    actor: Any = ray.remote(num_cpus=pool.declared_cpus, num_gpus=pool.gpus)(TimedActor)
    actors = [actor.remote(dataclasses.replace(stage, num_threads=pool.num_threads)) for _ in range(beside)]
    starting_s = max(ray.get([one.ready.remote() for one in actors])) - began
    strata = [
        (_ready(stratum.rows, rows, pool), _counts(rows, "num_model_tokens").astype(int).tolist())
        for stratum, rows in zip(sample.strata, prepared, strict=True)
    ]
    rates = np.array(ray.get([one.seconds.remote(strata, TIMED_S) for one in actors]))
    for one in actors:
        ray.kill(one)
    return rates, starting_s


def _ready(rows: pa.Table, prepared: Sequence[Any], pool: Pool) -> pa.Table:
    """Rows as they reach an actor: tokenized, where other workers do that."""
    if not pool.tokenizers:
        return rows
    return rows.append_column(PREPARED, pa.array([pack(item) for item in prepared], pa.large_binary()))


def _counts(prepared: Sequence[tuple[Any, ...]], what: str) -> np.ndarray:
    """What each prepared row says of itself, (rows,); 0 for those that failed. Scores read the same text, each once."""
    of_all = sum if what == "num_model_tokens" else max
    return np.array([of_all(getattr(item, what, 0) for item in row) for row in prepared], dtype=float)


def _per_byte(stratum: Stratum, prepared: Sequence[Any], what: str) -> float:
    return float(_counts(prepared, what).sum() / stratum.lengths.sum())


def _spread(value: float, error: float, how: str = ",.3g") -> str:
    """Two standard errors, given as a share, to either side."""
    return f"{value * max(0.0, 1 - 2 * error):{how}} to {value * (1 + 2 * error):{how}}"
