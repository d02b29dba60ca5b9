"""The scoring job's command line, and the same scoring as a step of anybody's Ray Data pipeline.

    bigbird-score --task token-classification --model checkpoints/token-classification \\
        --input corpus.parquet --output scored

Start it again with the same command after whatever stopped it: what is done stays done.

Exit status: 0 every row is scored; 3 every row is in the output, some with their `error` instead of a result;
1 stopped on the way, and what is done stays done; 2 refused before anything started, one line says why.
"""

import argparse
import contextlib
import logging
import os
import random
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
from ray._private.log import PlainRayHandler
from ray.data import Dataset

from bigbird.errors import BigBirdError, InputError
from pipelines.command_line import DONE, DONE_WITH_ERRORS, REFUSED, STOPPED, say, say_stopped
from pipelines.ray_cluster import join_ray
from pipelines.scoring.actors.pool import Cluster, ScoreOptions, step_pool
from pipelines.scoring.actors.score_rows import ScoreRows, load_predictor
from pipelines.scoring.actors.stages import add_scoring, make_stage
from pipelines.scoring.arguments import PROG, job_of, parser, verify_parser
from pipelines.scoring.checks import inspect_model
from pipelines.scoring.estimate.estimate import estimate
from pipelines.scoring.failures import explain
from pipelines.scoring.ids import find_id_column
from pipelines.scoring.job import run_job
from pipelines.scoring.plan import list_columns
from pipelines.scoring.proof.endpoint import asking
from pipelines.scoring.proof.verify import verify
from pipelines.scoring.report.report import redraw_report
from pipelines.scoring.schemas import InputColumns, check_input_types, output_schema, result_fields
from pipelines.scoring.scores import Score, scores_of
from pipelines.scoring.storage import locate
from pipelines.scoring.work import dry_run

MOST_DIFFERENCES = 50
OF_A_REPORT = ("report_only", "output", "report_documents", "price_per_hour", "quiet", "verbose")

__all__ = ["InputColumns", "Score", "ScoreOptions", "main", "score"]


def score(
    dataset: Dataset,
    task: str | None = None,
    model: str | None = None,
    options: ScoreOptions | None = None,
    *,
    scores: Sequence[Score] = (),
    load: Callable[..., Any] | None = None,
) -> Dataset:
    """The dataset with the result columns of `task` and an `error` column (null where fine).

    scores: in the place of a task and a model, several of them in one pass, each with a name before its columns and
    its `error`: `score(dataset, scores=[Score(name="ner", task="token-classification", model="my-tagger"), ...])`.

    Lazy, like every step of Ray Data; one row in, one row out, whatever is in it. Blocks are scored as they
    come: `dataset.repartition(...)` first where few large ones would leave actors idle. The pool of actors grows
    as rows come, and leaves a core for the steps before and after it. `load` stands in for `bigbird.load_predictor`.

    Raises InputError or CheckpointError: an unknown task, a model without its head, a pool that would leave no core
    to the other steps, and, where the dataset knows its schema, a missing column, one of the wrong type, or one
    with the name of a result.
    """
    options = options or ScoreOptions()
    asked = scores_of(task, model, options.task_options, scores)
    stage, _ = make_stage(asked, options, load=load or load_predictor, inspect=inspect_model)
    known = dataset.schema(fetch_if_missing=False)
    if known is not None and hasattr(known.base_schema, "remove_metadata"):
        check_input_types(known.base_schema, stage.columns)
        output_schema(known.base_schema, stage.results, stage.prefix)
    join_ray()
    return add_scoring(dataset, stage, step_pool(options, dataset, Cluster.running()), ScoreRows)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    argv = sys.argv[1:] if argv is None else list(argv)
    proving = argv[:1] == ["verify"]
    arguments = verify_parser().parse_args(argv[1:]) if proving else _job_arguments(argv)
    try:
        return _verify(arguments) if proving else _run(arguments)
    except BigBirdError as error:
        lines, status = [str(error)], REFUSED
    except (KeyboardInterrupt, SystemExit) as error:
        return say_stopped(PROG, error)
    except Exception as error:  # Ray's own errors have no common base; the person needs the cause and the way on
        if arguments.verbose:
            traceback.print_exc()
        lines, status = explain(error), STOPPED
    for line in lines:
        say(PROG, line)
    return status


def _job_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Arguments of which none is missing. Ends the process with status 2 where one is."""
    known = parser()
    arguments = known.parse_args(argv)
    if arguments.report_only:
        needed = ["output"]
        for action in known._actions:
            given = getattr(arguments, action.dest, action.default)
            if action.dest not in OF_A_REPORT and given != action.default:
                known.error(f"{action.option_strings[0]} does nothing with --report-only")
    else:
        by = [] if arguments.score else ["task", "model"]
        needed = by[:1] if arguments.print_schema else [*by, "input", "output"]
    for name in needed:
        if not getattr(arguments, name):
            known.error(f"--{name} is required")
    return arguments


def _run(arguments: argparse.Namespace) -> int:
    if arguments.report_only:
        price = arguments.price_per_hour
        redraw_report(locate(arguments.output), documents=arguments.report_documents, price_per_hour=price)
        _print(arguments, f"report     {arguments.output}.report.html")
        return DONE
    if arguments.print_schema:
        _print_schema(arguments)
        return DONE
    job = job_of(arguments)
    if not arguments.verbose:
        # Ray Data warns of choices that are ours (no bars where nobody watches); its errors arrive as exceptions.
        for handler in logging.getLogger("ray.data").handlers:
            if isinstance(handler, PlainRayHandler):
                handler.setLevel(logging.CRITICAL)
    with open(os.devnull, "w") if arguments.quiet else contextlib.nullcontext(sys.stderr) as out:
        if arguments.dry_run or arguments.estimate:
            asked = dry_run if arguments.dry_run else estimate
            told = partial(print, file=out, flush=True)
            print("\n".join(asked(job, load=load_predictor, inspect=inspect_model, say=told)))
            return DONE
        summary = run_job(job, load=load_predictor, inspect=inspect_model, out=out)
    _print(arguments, summary.text)
    return DONE_WITH_ERRORS if summary.errors else DONE


def _verify(arguments: argparse.Namespace) -> int:
    seed = random.randrange(1 << 32) if arguments.seed is None else arguments.seed
    proof = verify(
        arguments.output,
        sample=arguments.sample,
        seed=seed,
        load=load_predictor,
        inspect=inspect_model,
        model=arguments.model,
        inputs=arguments.input,
        answered_by=asking(arguments.endpoint) if arguments.endpoint else None,
    )
    if not proof.differs:
        print(f"{proof.text} (--seed {seed})")
        return DONE
    for line in proof.differs[:MOST_DIFFERENCES]:
        say(PROG, line)
    more = len(proof.differs) - MOST_DIFFERENCES
    say(PROG, f"not proved (--seed {seed})" + (f", and {more:,} more differences" if more > 0 else ""))
    return STOPPED


def _print(arguments: argparse.Namespace, text: str) -> None:
    if not arguments.quiet:
        print(text)


def _print_schema(arguments: argparse.Namespace) -> None:
    """The columns of the output: without --input, those the job adds. Raises InputError for what a job would refuse."""
    job = job_of(arguments)
    for flag, value in (("--columns", job.keep), ("--id-column", job.id_column)):
        if value is not None and not job.inputs:
            raise InputError(f"{flag} is of the input: give --input as well")
    options = job.options
    results: dict[str, Any] = {}
    columns: dict[str, str] = {}
    one = Score(task=job.task, model=job.model, options=options.task_options)
    for score in scores_of(job.task, job.model, None, job.scores) if job.scores else (one,):
        size = None
        if score.model:
            size = inspect_model(score.task, score.model, options.dtype, score.options).embedding_size
        results[score.prefix] = result_fields(score.task, options=score.options, embedding_size=size)
        columns |= options.columns.of_task(score.task)
    kept = pa.schema([])
    if arguments.input:
        listing, kept = list_columns(job.inputs, columns, job.kept)
        if job.id_column is not None:
            find_id_column(listing.schema, job.id_column)
    for column in output_schema(kept, results, options.prefix):
        print(f"{column.name}: {column.type}")


if __name__ == "__main__":
    sys.exit(main())
