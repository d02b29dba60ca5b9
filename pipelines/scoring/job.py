"""One job from start to finish: refuse, list, continue, score, sum up.

    list_inputs -> open_output -> units left -> Read (tasks) -> Score (actors, each writes files) -> summary

Knows how the parts go together and what a person sees of it; what a part does is in its own file.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset, Datasource
from ray.data.block import BlockMetadata
from ray.data.datasource import ReadTask

from bigbird.errors import InputError
from pipelines.ray_cluster import join_ray
from pipelines.scoring.actors.pool import ScoreOptions, num_tokenizers, pool
from pipelines.scoring.actors.score_rows import Stage
from pipelines.scoring.actors.score_unit import REPLACES, ScoreUnit
from pipelines.scoring.actors.tokenize_rows import TokenizeRows
from pipelines.scoring.actors.watch import start_watch
from pipelines.scoring.checks import ModelFacts, check_ids, check_memory
from pipelines.scoring.inputs.listing import Listing, list_inputs
from pipelines.scoring.inputs.reading import read_unit
from pipelines.scoring.inputs.units import Unit, size_of_units
from pipelines.scoring.ledger.ledger import Ledger, open_output, refuse_doubles
from pipelines.scoring.ledger.parts import read_parts
from pipelines.scoring.progress import Progress
from pipelines.scoring.report.report import write_report
from pipelines.scoring.schemas import check_input_types, output_schema, result_fields, top_level
from pipelines.scoring.storage import Place, locate

# Reports of progress that one watching actor is asked to take; actors of large pools report less often.
REPORTS_PER_S = 500


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is scored, and where the result goes.

    keep: input columns beside the results, None for all. id_column: a column whose values must differ in all
    rows. unit_bytes: bytes of input text to an output file, None to choose by input and device.
    """

    task: str
    model: str
    inputs: Sequence[str]
    output: str
    options: ScoreOptions = field(default_factory=ScoreOptions)
    keep: Sequence[str] | None = None
    id_column: str | None = None
    limit: int | None = None
    unit_bytes: int | None = None
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a job did. Counts are of this start, `documents_before` of earlier ones."""

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
        ]
        if self.documents_before:
            lines.insert(1, f"before     {self.documents_before:,} were done by earlier starts")
        return "\n".join(lines)


class UnitSource(Datasource):
    """Ray Data source of units: one read task and one block a unit."""

    def __init__(self, units: Sequence[Unit], listing: Listing, schema: pa.Schema, unit_bytes: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._units = units
        self._listing = listing
        self._schema = schema
        self._unit_bytes = unit_bytes

    def get_name(self) -> str:
        return "Rows"

    def estimate_inmemory_data_size(self) -> int:
        return len(self._units) * self._unit_bytes

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: DataContext | None = None
    ) -> list[ReadTask]:
        return [self._task(unit) for unit in self._units]

    def _task(self, unit: Unit) -> ReadTask:
        filesystem, schema, unit = self._listing.filesystem, self._schema, unit.light

        def read() -> list[pa.Table]:
            table = read_unit(unit, filesystem, schema)
            return [table.append_column(REPLACES, pa.array([unit.replaces] * table.num_rows, pa.string()))]

        size = BlockMetadata(num_rows=unit.rows, size_bytes=self._unit_bytes, input_files=None, exec_stats=None)
        return ReadTask(read, size)


def run_job(job: Job, *, load: Callable[..., Any], inspect: Callable[..., ModelFacts], out: TextIO) -> Summary:
    """Score what is left of a job and return a summary of it.

    `load` makes a predictor in an actor (`bigbird.load_predictor`), `inspect` its facts beforehand
    (`pipelines.scoring.checks.inspect_model`). Raises InputError or CheckpointError for whatever can be known before
    actors start. Starts Ray where it is not running.
    """
    began = time.monotonic()
    options = job.options
    columns = options.columns.of_task(job.task)
    if job.limit is not None and job.limit < 1:
        raise InputError(f"limit is {job.limit}, expected at least 1")
    facts = inspect(job.task, job.model, options.dtype)
    load(job.task, job.model, options=options.task_options, weights=False)  # its tokenizer, and options it cannot meet
    results = result_fields(job.task, options=options.task_options, embedding_size=facts.embedding_size)
    listing = list_inputs(job.inputs, read_columns=[name.partition(".")[0] for name in columns.values()])
    check_input_types(listing.schema, columns)
    output = locate(job.output)
    _refuse_output_among_inputs(output, job.inputs, listing)
    kept = _kept(listing.schema, job)
    schema = output_schema(kept, results)
    actors = options.max_actors or options.num_actors or 4
    ledger = open_output(
        output,
        fingerprint=_fingerprint(job, facts, columns, schema),
        listing=listing,
        schema=schema,
        unit_bytes=job.unit_bytes or size_of_units(listing.files, options.device, actors),
        overwrite=job.overwrite,
    )
    if job.id_column:
        check_ids(listing, job.id_column)
    before = ledger.num_done
    units = ledger.units_left(listing, limit=job.limit)
    rows = sum(unit.rows for unit in units)
    said = f"{len(listing.files):,} files, {listing.rows:,} rows"
    print(f"{job.task}: {said}; {before:,} done before, {rows:,} to score", file=out, flush=True)
    summaries: dict[str, dict[str, Any]] = {}
    if units:
        names = {*kept.names, *(top_level(name, listing.schema.names) for name in columns.values())}
        read_schema = pa.schema([f for f in listing.schema if f.name in names])
        stage = Stage(
            task=job.task,
            model=job.model,
            columns=columns,
            results=results,
            load=load,
            task_options=options.task_options,
            device=options.device,
            dtype=options.dtype,
            max_tokens_per_batch=options.max_tokens_per_batch,
            window_rows=options.window_rows,
        )
        join_ray()
        summaries = _score(stage, units, listing, read_schema, schema, ledger, options, facts, out)
        _require_complete(ledger, listing, job.limit)
    write_report(ledger.output, ledger.parts)  # an earlier start may have been killed before it could
    errors: dict[str, int] = {}
    for summary in summaries.values():
        for kind, count in summary["errors"].items():
            errors[kind] = errors.get(kind, 0) + count
    return Summary(
        documents=sum(summary["documents"] for summary in summaries.values()),
        documents_before=before,
        tokens=sum(summary["tokens"] for summary in summaries.values()),
        errors=errors,
        seconds=time.monotonic() - began,
        output=ledger.output.name,
    )


def _score(
    stage: Stage,
    units: Sequence[Unit],
    listing: Listing,
    read_schema: pa.Schema,
    schema: pa.Schema,
    ledger: Ledger,
    options: ScoreOptions,
    facts: ModelFacts,
    out: TextIO,
) -> dict[str, dict[str, Any]]:
    _, cpus, _ = pool(options)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    room = check_memory(facts, nodes, options.num_actors or 1, cpus)
    strategy, _, size = pool(options, min(len(units), room))
    stage = dataclasses.replace(stage, num_threads=max(1, int(cpus)) if options.device == "cpu" else None)
    watch = start_watch()
    context = DataContext.get_current()
    context.enable_progress_bars = out.isatty()
    context.print_on_execution_start = False
    rows: Dataset = ray.data.read_datasource(
        UnitSource(units, listing, read_schema, ledger.unit_bytes),
        override_num_blocks=len(units),
        concurrency=min(len(units), size + 1),  # each is a process, and starting one takes seconds
        num_cpus=0,  # the actors own the cores; reading takes little beside scoring
    )
    if tokenizers := num_tokenizers(options, size, cpus):
        rows = rows.map_batches(
            TokenizeRows,
            fn_constructor_args=(stage, watch),
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=tokenizers),
            num_cpus=1,
        )
    parts = rows.map_batches(
        ScoreUnit,
        fn_constructor_args=(stage, ledger.output, ledger.run, schema, watch, max(1.0, size / REPORTS_PER_S)),
        batch_size=None,
        batch_format="pyarrow",
        compute=strategy,
        num_cpus=cpus,
        num_gpus=options.num_gpus_per_actor or None,
    )
    summaries: dict[str, dict[str, Any]] = {}
    needs = {"CPU": cpus, "GPU": options.num_gpus_per_actor}
    with Progress(watch, sum(unit.rows for unit in units), needs, out):
        batch: Any
        for batch in parts.iter_batches(batch_size=None, batch_format="pyarrow"):
            for name, summary in zip(batch["part"].to_pylist(), batch["summary"].to_pylist(), strict=True):
                summaries[name] = json.loads(summary)
    ray.kill(watch)
    return summaries


def _refuse_output_among_inputs(output: Place, inputs: Sequence[str], listing: Listing) -> None:
    """A folder is read with all that is below it: the next start would take its own results for input."""
    if not listing.filesystem.equals(output.filesystem):
        return
    folders = [place.path.rstrip("/") for place in map(locate, inputs)]
    inside = any(output.path.startswith(f"{folder}/") for folder in folders)
    if inside or any(file.path.startswith(f"{output.path}/") for file in listing.files):
        raise InputError(f"output {output.name!r} lies among the inputs; choose a directory outside them")


def _kept(schema: pa.Schema, job: Job) -> pa.Schema:
    if job.keep is None:
        return schema
    names = list(dict.fromkeys([*job.keep, *([job.id_column] if job.id_column else [])]))
    absent = [name for name in names if name not in schema.names]
    if absent:
        raise InputError(
            f"columns {', '.join(map(repr, absent))} are not in the input; its columns are {', '.join(schema.names)}"
        )
    return pa.schema([schema.field(name) for name in names])


def _fingerprint(job: Job, facts: ModelFacts, columns: dict[str, str], schema: pa.Schema) -> dict[str, Any]:
    """What must be equal for two starts to be one run. Pool, threads and limit may differ: results do not."""
    task_options = job.options.task_options
    return {
        "task": job.task,
        "model": facts.digest,
        "task_options": dataclasses.asdict(task_options) if task_options is not None else {},
        "dtype": job.options.dtype,
        "input_columns": dict(columns),
        "output_columns": [f"{field.name}: {field.type}" for field in schema],
    }


def _require_complete(ledger: Ledger, listing: Listing, limit: int | None) -> None:
    """Count again from the directory itself: every row is there, once."""
    ledger.parts = read_parts(ledger.output, run=ledger.run)
    refuse_doubles(ledger.output, ledger.parts)
    wanted = min(listing.rows, limit or listing.rows)
    if ledger.num_done < wanted:
        raise RuntimeError(f"{wanted - ledger.num_done:,} of {wanted:,} rows are missing from {ledger.output.name}")
