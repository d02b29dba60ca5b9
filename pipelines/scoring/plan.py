"""What a job is to do, and what can be known of it before anything starts or is written.

Knows how the parts of a plan go together: a model with its task, the listing of the inputs, the schema of the output.
Does not know what is done already, nor Ray.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pyarrow as pa

from bigbird.errors import InputError
from pipelines.scoring.actors.pool import ScoreOptions
from pipelines.scoring.actors.score_rows import Stage
from pipelines.scoring.actors.stages import make_stage
from pipelines.scoring.checks import ModelInfo
from pipelines.scoring.ids import check_ids
from pipelines.scoring.inputs.listing import Listing, list_inputs
from pipelines.scoring.inputs.paths import holds
from pipelines.scoring.inputs.units import ON_THE_WAY
from pipelines.scoring.report.cost import check_price
from pipelines.scoring.report.summaries import NUM_EXTREMES
from pipelines.scoring.schemas import check_input_types, output_schema, top_level
from pipelines.scoring.scores import Score, scores_of
from pipelines.scoring.storage import Place, locate


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is scored, and where the result goes.

    task, model: what by, with `options.task_options`; or, in their place, `scores`: several ways at once. keep: input
    columns beside the results, None for all. id_column: a column whose values must differ in all rows. unit_bytes:
    bytes of input text to an output file, None to choose by input and device. max_error_share: the share of all rows
    that may fail in one way; None for a hundredth, and ten rows in any case. report_documents: documents at each end
    of the scores whose texts the report shows. price_per_hour: of one machine. Raises InputError for a value out of its
    range.
    """

    inputs: Sequence[str]
    output: str
    task: str = ""
    model: str = ""
    scores: Sequence[Score] = ()
    options: ScoreOptions = field(default_factory=ScoreOptions)
    keep: Sequence[str] | None = None
    id_column: str | None = None
    limit: int | None = None
    unit_bytes: int | None = None
    overwrite: bool = False
    max_error_share: float | None = None
    report_documents: int = 0
    price_per_hour: float | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise InputError(f"limit is {self.limit}, expected at least 1")
        if self.max_error_share is not None and not 0 <= self.max_error_share <= 1:
            raise InputError(f"max_error_share is {self.max_error_share}, expected 0 to 1")
        if not 0 <= self.report_documents <= NUM_EXTREMES:
            raise InputError(f"report_documents is {self.report_documents}, expected 0 to {NUM_EXTREMES}")
        check_price(self.price_per_hour)

    @property
    def kept(self) -> Sequence[str] | None:
        """Input columns beside the results, None for all: ids are among them."""
        return None if self.keep is None else [*self.keep, *([] if self.id_column is None else [self.id_column])]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a job scores and how. read_schema: columns that are read; schema: columns of the output."""

    stage: Stage
    model: ModelInfo
    listing: Listing
    output: Place
    read_schema: pa.Schema
    schema: pa.Schema


def plan_job(job: Job, load: Callable[..., Any], inspect: Callable[..., ModelInfo], say: Callable[[str], None]) -> Plan:
    """Raises InputError or CheckpointError for all that can be refused before the output is touched."""
    scores = scores_of(job.task, job.model, job.options.task_options, job.scores)
    stage, model = make_stage(scores, job.options, load=load, inspect=inspect)
    columns = stage.columns
    output = locate(job.output)
    _refuse_output_among_inputs(output, job.inputs)
    listing, kept = list_columns(job.inputs, columns, job.kept, say)
    if job.id_column is not None:
        check_ids(listing, job.id_column)
    names = {*kept.names, *(top_level(name, listing.schema.names) for name in columns.values())}
    return Plan(
        stage=stage,
        model=model,
        listing=listing,
        output=output,
        read_schema=pa.schema([f for f in listing.schema if f.name in names]),
        schema=output_schema(kept, stage.results, stage.prefix),
    )


def list_columns(
    inputs: Sequence[str],
    columns: Mapping[str, str],
    keep: Sequence[str] | None,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[Listing, pa.Schema]:
    """The listing of an input, and the columns that are kept of it.

    columns: those that the task reads. keep: None for all. Raises InputError where one is missing or of another type.
    """
    listing = list_inputs(inputs, read=columns, keep=keep, say=say)
    if names := sorted(set(ON_THE_WAY) & set(listing.schema.names)):
        raise InputError(f"input column {names[0]!r} has a name that jobs use themselves; leave it out or rename it")
    check_input_types(listing.schema, columns, listing.names)
    return listing, _kept(listing, keep)


def fingerprint(job: Job, plan: Plan) -> dict[str, Any]:
    """What must be equal for two starts to be one run. Pool, threads and limit may differ: results do not."""
    scores = {
        score.name: {
            "task": score.task,
            "model": score.digest,
            "task_options": dataclasses.asdict(score.options) if score.options is not None else {},
            "input_columns": dict(score.columns),
        }
        for score in plan.stage.scores
    }
    return {
        **scores.get("", {"scores": scores}),
        "library": _library_version(),
        "dtype": job.options.dtype,
        "output_columns": [f"{field.name}: {field.type}" for field in plan.schema],
        **({"prefix": plan.stage.prefix} if plan.stage.prefix else {}),
    }


def _refuse_output_among_inputs(output: Place, inputs: Sequence[str]) -> None:
    """Folders and globs are read with all that is below them: the next start would take its own results for input."""
    part = output.child("part-0.parquet").path
    if any(locate(given).filesystem.equals(output.filesystem) and holds(given, part) for given in inputs):
        raise InputError(f"output {output.name!r} lies among the inputs; choose a directory outside them")
    if any(locate(given).name.startswith(f"{output.name}/") for given in inputs):
        raise InputError(f"output {output.name!r} holds an input; choose another directory")


def _kept(listing: Listing, keep: Sequence[str] | None) -> pa.Schema:
    if keep is None:
        return listing.schema
    absent = [name for name in keep if name not in listing.schema.names]
    if absent:
        raise InputError(
            f"columns {', '.join(map(repr, absent))} are not in the input; its columns are {', '.join(listing.names)}"
        )
    return pa.schema([listing.schema.field(name) for name in dict.fromkeys(keep)], metadata=listing.schema.metadata)


def _library_version() -> str:
    try:
        return version("bigbird-on-ray")
    except PackageNotFoundError:  # the nodes of a cluster may have it as a working directory only
        return "unknown"
