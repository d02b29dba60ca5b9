"""The work of one start: the output as it stands, and what `--dry-run` says of it.

Does not know how rows are scored.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bigbird.errors import InputError
from pipelines.ray_cluster import join_ray
from pipelines.scoring.actors.pool import Cluster, Pool, job_pool
from pipelines.scoring.checks import ModelInfo
from pipelines.scoring.inputs.units import Unit, size_of_units
from pipelines.scoring.ledger.lease import holder
from pipelines.scoring.ledger.ledger import Changes, Ledger, read_output
from pipelines.scoring.ledger.records import RUN_FILE, read_record
from pipelines.scoring.plan import Job, Plan, fingerprint, plan_job


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a start would do, found out without touching the output. pool: None where nothing is left to score."""

    plan: Plan
    ledger: Ledger
    changes: Changes
    units: Sequence[Unit]
    pool: Pool | None

    @property
    def rows(self) -> int:
        return sum(unit.rows for unit in self.units)


def find_work(job: Job, plan: Plan) -> Work:
    """What a start of the job would find and do. Writes nothing; starts Ray where it is not running.

    Raises InputError for whatever a start would refuse of the output and the cluster.
    """
    ledger, changes = read_output(
        plan.output, fingerprint(job, plan), plan.listing, plan.schema, _unit_bytes(job, plan), job.overwrite
    )
    if job.unit_bytes and job.unit_bytes != ledger.unit_bytes:
        raise InputError(
            f"target_file_size is {job.unit_bytes:,} bytes; output {plan.output.name!r} was begun with "
            f"{ledger.unit_bytes:,}: leave it out, or choose another directory"
        )
    units = ledger.units_left(plan.listing, limit=job.limit)
    pool = None
    if units:
        join_ray()
        pool = job_pool(job.options, len(units), plan.model.actor_bytes, Cluster.running())
    return Work(plan=plan, ledger=ledger, changes=changes, units=units, pool=pool)


def dry_run(
    job: Job, *, load: Callable[..., Any], inspect: Callable[..., ModelInfo], say: Callable[[str], None]
) -> list[str]:
    """What a start of the job would do, as lines for a person.

    Raises InputError or CheckpointError for whatever a start would refuse.
    """
    work = find_work(job, plan_job(job, load, inspect, say))
    listing, ledger, changes = work.plan.listing, work.ledger, work.changes
    size = sum(file.size for file in listing.files)
    lines = [
        *(
            f"task       {score.title}, {job.options.dtype}, model {score.model} ({score.digest[:12]})"
            for score in work.plan.stage.scores
        ),
        f"files      {len(listing.files):,}, {size:,} bytes",
        f"rows       {listing.rows:,}: {ledger.num_done:,} done before, {work.rows:,} to score",
        f"units      {len(work.units):,}, an output file each",
    ]
    if work.pool is not None:
        lines.append(f"actors     {_actors(work.pool)}")
    lines.append(f"output     {ledger.output.name}: {'begun anew' if changes.begins else 'goes on'}")
    if changes.stale:
        lines.append(f"replaced   {len(changes.stale):,} files there, the first {changes.stale[0]}")
    notes = [*listing.notes, *ledger.notes]
    if held := holder(ledger.output):
        notes.append(f"{held}: until it ends, a start is refused")
    lines += [f"note       {note}" for note in notes]
    return [*lines, "nothing is written: this was a dry run"]


def _actors(pool: Pool) -> str:
    most = "" if pool.max_size == pool.initial_size else f", up to {pool.max_size:,} as the cluster grows"
    gpus = f" and {pool.gpus:g} GPUs" if pool.gpus else ""
    tokenizers = f"; {pool.tokenizers:,} tokenizers" if pool.tokenizers else ""
    return f"{pool.initial_size:,} of {pool.cpus:g} CPUs{gpus}{most}{tokenizers}"


def _unit_bytes(job: Job, plan: Plan) -> int:
    """Bytes to a unit: what the job says, else, of a new run, by the actors that the cluster may come to hold."""
    if job.unit_bytes:
        return job.unit_bytes
    if not job.overwrite and read_record(plan.output, RUN_FILE) is not None:
        return 1  # a run that has begun keeps its own
    join_ray()
    cluster = Cluster.running()
    everything = Cluster(nodes=[*cluster.nodes, *(cluster.growth or ())])
    actors = job_pool(job.options, sys.maxsize, plan.model.actor_bytes, everything).initial_size
    return size_of_units(plan.listing.files, job.options.device, job.options.max_actors or actors)
