"""One job from start to finish: plan what is left, score it, account for it.

    plan      plan_job -> find_work -> change_output
    score     UnitSource (read tasks) -> ScoreUnit (actors, each writes files)
    account   every row is there once -> report, summary

Knows how the parts go together and what a person sees of it; what a part does is in its own file.
"""

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TextIO

import pyarrow.fs as pafs
import ray
from ray.data import DataContext

from bigbird.errors import InputError
from pipelines.command_line import counted
from pipelines.scoring.actors.pool import Pool, reader_cpus
from pipelines.scoring.actors.probe import Seen, blind_nodes, look_on_nodes
from pipelines.scoring.actors.score_unit import ScoreUnit
from pipelines.scoring.actors.stages import add_scoring
from pipelines.scoring.actors.watch import start_watch
from pipelines.scoring.checks import ModelInfo
from pipelines.scoring.failures import ErrorCount
from pipelines.scoring.inputs.source import UnitSource
from pipelines.scoring.ledger.lease import Lease
from pipelines.scoring.ledger.ledger import Ledger, change_output
from pipelines.scoring.ledger.records import LEASE_FILE
from pipelines.scoring.plan import Job, Plan, plan_job
from pipelines.scoring.progress import Progress
from pipelines.scoring.proof.receipt import RECEIPT_SUFFIX, computed_with, write_receipt
from pipelines.scoring.report.report import write_report
from pipelines.scoring.storage import make_writable
from pipelines.scoring.work import Work, find_work

# Reports of progress that one watching actor is asked to take; actors of large pools report less often.
REPORTS_PER_S = 500


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a job did. Documents and tokens are of this start, `documents_before` of earlier ones; errors of all."""

    documents: int
    documents_before: int
    tokens: int
    errors: dict[str, int]
    seconds: float
    output: str

    @property
    def text(self) -> str:
        """Lines for a person."""
        errors = ", ".join(f"{kind} {count:,}" for kind, count in sorted(self.errors.items()))
        lines = [
            f"documents  {self.documents:,}",
            f"tokens     {self.tokens:,}",
            f"errors     {sum(self.errors.values()):,}" + (f"  ({errors})" if errors else ""),
            f"tokens/s   {self.tokens / max(self.seconds, 1e-9):,.0f}  in {self.seconds:,.1f} s",
            f"output     {self.output}",
            f"report     {self.output}.report.html",
            f"receipt    {self.output}.receipt.json",
        ]
        if self.documents_before:
            lines.insert(1, f"before     {self.documents_before:,} were done by earlier starts")
        return "\n".join(lines)


def run_job(job: Job, *, load: Callable[..., Any], inspect: Callable[..., ModelInfo], out: TextIO) -> Summary:
    """Score what is left of a job and return a summary of it.

    `load` and `inspect` as in `actors.stages.make_stage`. Raises InputError or CheckpointError for whatever can be
    known before actors start, TooManyErrorsError where rows fail in masses. Starts Ray where it is not running.
    """

    def say(line: str) -> None:
        print(line, file=out, flush=True)

    began = time.monotonic()
    plan = plan_job(job, load, inspect, say)
    with ThreadPoolExecutor(1) as beside, Lease(plan.output, plan.schema, say) as lease:
        make_writable(plan.output.beside(RECEIPT_SUFFIX).folder, "folder of report and receipt")  # now, not in the end
        start = beside.submit(computed_with, job, plan)  # reads every file of the models
        work = find_work(job, plan)
        ledger, before = work.ledger, work.ledger.num_done
        looking = look_on_nodes(_seen_by_all(plan)) if work.units else {}
        if work.changes.stale:  # nothing is taken out of an output by a start that is refused then
            _refuse_blind_nodes(looking)
        change_output(ledger, work.changes, plan.listing)
        files = f"{counted(len(plan.listing.files), 'file')}, {counted(plan.listing.rows, 'row')}"
        scores = ", ".join(score.title for score in plan.stage.scores)
        say(f"{scores}: {files}; {before:,} done before, {work.rows:,} to score")
        for note in (*plan.listing.notes, *ledger.notes):
            say(f"  {note}")
        summaries = _score(job, work, work.pool, looking, lease, out) if work.pool else {}
        ledger.finish(plan.listing, job.limit)
        digests = {name: summary["sha256"] for name, summary in summaries.items() if "sha256" in summary}
        write_receipt(job, plan, ledger, start.result(), digests)
        first = min((summary["started"] for summary in summaries.values()), default=None)
        starting_s = None if first is None else first - (time.time() - (time.monotonic() - began))
        # Also where nothing was left: an earlier start may have been killed before it could write one.
        write_report(
            ledger.output,
            ledger.parts,
            documents=job.report_documents,
            starting_s=starting_s,
            price_per_hour=job.price_per_hour,
        )
    return _account(summaries, before, time.monotonic() - began, ledger)


def _score(
    job: Job, work: Work, pool: Pool, looking: Mapping[Any, str], lease: Lease, out: TextIO
) -> dict[str, dict[str, Any]]:
    """Score what is left; returns the summary of each file that was written."""
    plan, ledger, units = work.plan, work.ledger, work.units
    errors = ErrorCount(job.max_error_share, plan.listing.rows)
    for name, footer in ledger.parts.items():
        errors.add(name, footer.summary)
    watch = start_watch()
    os.environ.setdefault("RAY_DATA_USAGE_DISABLED", "1")  # an actor that counts uses, and a second of every start
    context = DataContext.get_current()
    context.enable_progress_bars = out.isatty()
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = -1  # nodes may take hours to come; the progress says what it waits for
    rows = ray.data.read_datasource(
        UnitSource(units, plan.listing.filesystem, plan.read_schema, ledger.unit_bytes, plan.stage.prefix),
        override_num_blocks=len(units),
        concurrency=pool.max_size,
        num_cpus=reader_cpus(pool.cpus),
    )
    report_interval_s = max(1.0, pool.initial_size / REPORTS_PER_S)
    target = (plan.output, ledger.run, plan.schema)
    parts = add_scoring(rows, plan.stage, pool, ScoreUnit, *target, watch, report_interval_s, watch=watch)
    _refuse_blind_nodes(looking)
    summaries: dict[str, dict[str, Any]] = {}
    with Progress(watch, work.rows, {"CPU": pool.declared_cpus, "GPU": pool.gpus}, out):
        batch: Any
        for batch in parts.iter_batches(batch_size=None, batch_format="pyarrow"):
            for name, text in zip(batch["part"].to_pylist(), batch["summary"].to_pylist(), strict=True):
                summaries[name] = json.loads(text)
                errors.add(name, summaries[name])
            lease.check()
    ray.kill(watch)
    return summaries


def _seen_by_all(plan: Plan) -> list[tuple[str, Seen]]:
    """Of the output, the inputs and the models, files that every node must see."""
    lease = plan.output.child(LEASE_FILE)
    size = plan.output.filesystem.get_file_info(lease.path).size
    files = [("output", (plan.output.filesystem, lease.path, size))]
    for file in {plan.listing.files[0], plan.listing.files[-1]}:
        files.append(("input", (plan.listing.filesystem, file.path, file.size)))
    return files + [("model", (pafs.LocalFileSystem(), path, size)) for path, size in plan.model.files]


def _refuse_blind_nodes(looking: Mapping[Any, str]) -> None:
    """Nodes that lack the model, an input or the output would find out one by one, while others compute."""
    if blind := blind_nodes(looking):
        more = f"; and {len(blind) - 3} more" if len(blind) > 3 else ""
        raise InputError(f"{'; '.join(blind[:3])}{more}. Every node needs them at the same place, or at a URI")


def _account(summaries: Mapping[str, Mapping[str, Any]], before: int, seconds: float, ledger: Ledger) -> Summary:
    errors = sum((Counter(footer.summary["errors"]) for footer in ledger.parts.values()), Counter[str]())
    return Summary(
        documents=sum(summary["documents"] for summary in summaries.values()),
        documents_before=before,
        tokens=sum(summary["tokens"] for summary in summaries.values()),
        errors=dict(errors),
        seconds=seconds,
        output=ledger.output.name,
    )
