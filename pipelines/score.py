"""The scoring job's command line, and the same scoring as a step of anybody's Ray Data pipeline.

    python -m pipelines.score --task token-classification --model checkpoints/token-classification \\
        --input corpus.parquet --output scored

Start it again with the same command after whatever stopped it: what is done stays done.

Exit status: 0 every row is scored; 3 every row is in the output, some with their `error` instead of a result;
1 stopped on the way, and what is done stays done; 2 refused before anything started, one line says why.
"""

import argparse
import logging
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
from ray._private.log import PlainRayHandler
from ray.data import Dataset

from bigbird.errors import BigBirdError, InputError
from bigbird.predictors import OPTIONS, load_predictor
from pipelines.ray_cluster import join_ray
from pipelines.scoring.actors.pool import Cluster, ScoreOptions, step_pool
from pipelines.scoring.actors.score_rows import ScoreRows
from pipelines.scoring.actors.stages import add_scoring, make_stage
from pipelines.scoring.checks import inspect_model, parse_options
from pipelines.scoring.failures import explain
from pipelines.scoring.job import run_job
from pipelines.scoring.plan import Job
from pipelines.scoring.schemas import (
    TASKS,
    InputColumns,
    check_input_types,
    output_schema,
    result_fields,
)

__all__ = ["InputColumns", "ScoreOptions", "main", "score"]

DONE, STOPPED, REFUSED, DONE_WITH_ERRORS = 0, 1, 2, 3

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMG]?)(?:i?B)?", re.IGNORECASE)
_FACTORS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def score(
    dataset: Dataset,
    task: str,
    model: str,
    options: ScoreOptions | None = None,
    *,
    load: Callable[..., Any] | None = None,
) -> Dataset:
    """The dataset with the result columns of `task` and an `error` column (null where fine).

    Lazy, like every step of Ray Data; one row in, one row out, whatever is in it. Blocks are scored as they
    come: `dataset.repartition(...)` first where few large ones would leave actors idle. The pool of actors grows
    as rows come, and leaves a core for the steps before and after it. `load` stands in for `bigbird.load_predictor`.

    Raises InputError or CheckpointError: an unknown task, a model without its head, a pool that would leave no core
    to the other steps, and, where the dataset knows its schema, a missing column, one of the wrong type, or one
    with the name of a result.
    """
    options = options or ScoreOptions()
    stage, _ = make_stage(task, model, options, load=load or load_predictor, inspect=inspect_model)
    known = dataset.schema(fetch_if_missing=False)
    if known is not None and hasattr(known.base_schema, "remove_metadata"):
        check_input_types(known.base_schema, stage.columns)
        output_schema(known.base_schema, stage.results, stage.prefix)
    join_ray()
    return add_scoring(dataset, stage, step_pool(options, dataset, Cluster.running()), ScoreRows)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        if arguments.print_schema:
            _print_schema(arguments)
            return DONE
        return _run(parser, arguments)
    except BigBirdError as error:
        lines, status = [" ".join(str(error).split())], REFUSED
    except KeyboardInterrupt:
        lines, status = ["stopped; start it again with the same command to continue"], STOPPED
    except Exception as error:  # Ray's own errors have no common base; the person needs the cause and the way on
        if arguments.verbose:
            traceback.print_exc()
        lines, status = explain(error), STOPPED
    for line in lines:
        print(f"pipelines.score: {line}", file=sys.stderr)
    return status


def _run(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    for name in ("model", "input", "output"):
        if not getattr(arguments, name):
            parser.error(f"--{name} is required")
    options = _score_options(arguments)
    job = Job(
        task=arguments.task,
        model=arguments.model,
        inputs=arguments.input,
        output=arguments.output,
        options=options,
        keep=arguments.columns,
        id_column=arguments.id_column,
        limit=arguments.limit,
        unit_bytes=_bytes(arguments.target_file_size) if arguments.target_file_size else None,
        overwrite=arguments.overwrite,
        max_error_share=arguments.max_error_share,
        report_documents=arguments.report_documents,
    )
    if not arguments.verbose:
        # Ray Data warns of choices that are ours (no bars where nobody watches); its errors arrive as exceptions.
        for handler in logging.getLogger("ray.data").handlers:
            if isinstance(handler, PlainRayHandler):
                handler.setLevel(logging.CRITICAL)
    summary = run_job(job, load=load_predictor, inspect=inspect_model, out=sys.stderr)
    print(summary.text)
    return DONE_WITH_ERRORS if summary.errors else DONE


def _score_options(arguments: argparse.Namespace) -> ScoreOptions:
    text = {"text": arguments.text_column} if arguments.text_column else {}
    named = ("text_pair", "question", "context", "prompt", "choices")
    given = {name: getattr(arguments, f"{name}_column") for name in named}
    columns = InputColumns(**text, **{name: value for name, value in given.items() if value})
    return ScoreOptions(
        columns=columns,
        task_options=_task_options(arguments),
        dtype=arguments.dtype,
        prefix=arguments.prefix,
        num_actors=arguments.num_actors,
        min_actors=arguments.min_actors,
        max_actors=arguments.max_actors,
        num_cpus_per_actor=arguments.num_cpus_per_actor,
        num_gpus_per_actor=arguments.num_gpus_per_actor,
        num_tokenizers=arguments.num_tokenizers,
        max_tokens_per_batch=arguments.max_tokens_per_batch,
    )


def _task_options(arguments: argparse.Namespace) -> Any:
    InputColumns().of_task(arguments.task)  # refuses an unknown task
    return parse_options(OPTIONS[arguments.task], arguments.option)


def _print_schema(arguments: argparse.Namespace) -> None:
    """The columns of the output: without --model and --input, those the job adds."""
    embedding_size = None
    if arguments.model:
        embedding_size = inspect_model(arguments.task, arguments.model).embedding_size
    results = result_fields(arguments.task, options=_task_options(arguments), embedding_size=embedding_size)
    for column in output_schema(pa.schema([]), results, arguments.prefix):
        print(f"{column.name}: {column.type}")


def _bytes(text: str) -> int:
    match = _SIZE.fullmatch(text.strip())
    if not match or float(match[1]) <= 0:
        raise InputError(f"size {text!r}: expected a number with K, M or G, such as 64M")
    return int(float(match[1]) * _FACTORS[match[2].upper()])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.score", description="Score Parquet or JSON lines with a BigBird model, resumably."
    )
    add = parser.add_argument
    add("--task", required=True, help=f"one of {', '.join(TASKS)}")
    add("--model", metavar="DIR_OR_HUB_ID", help="a Hugging Face directory, or the id of one on the hub")
    add("--input", nargs="+", metavar="PATH", help="files, folders, globs or URIs; Parquet or JSON lines")
    add("--output", metavar="DIR", help="a directory or URI; its own ledger, so the same one continues a job")
    group = parser.add_argument_group("columns")
    add = group.add_argument
    add("--text-column", metavar="NAME", help="column of the text (default: text; doc.body reaches into a struct)")
    add("--text-pair-column", metavar="NAME", help="second text of text-classification (default: none)")
    add("--question-column", metavar="NAME", help="default: question")
    add("--context-column", metavar="NAME", help="default: context")
    add("--prompt-column", metavar="NAME", help="default: prompt")
    add("--choices-column", metavar="NAME", help="a list of strings (default: choices)")
    add("--columns", nargs="*", metavar="NAME", help="input columns kept beside the results (default: all)")
    add("--id-column", metavar="NAME", help="kept, and refused where a value is null or occurs twice")
    add("--prefix", default="", metavar="TEXT", help="of the names of all columns that are written, such as ner_")
    group = parser.add_argument_group("what is done")
    add = group.add_argument
    add("--option", action="append", default=[], metavar="NAME=VALUE", help="an option of the task, repeatable")
    dtypes = ("float32", "bfloat16", "float16", "int8")
    add("--dtype", default="", choices=dtypes, help="of the model (default: bfloat16 on GPUs, else float32)")
    add("--limit", type=int, metavar="N", help="only the first N rows; without it later, the job goes on")
    add("--overwrite", action="store_true", help="replace what another run left, or this one finished; go on otherwise")
    add(
        "--max-error-share",
        type=float,
        metavar="F",
        help="stop when more of all rows fail in one way (default: 0.01, and 10 rows in any case)",
    )
    add("--target-file-size", metavar="SIZE", help="input text to an output file, such as 64M")
    add(
        "--report-documents",
        type=int,
        default=0,
        metavar="N",
        help="show the texts of the N lowest and highest documents in the report, 3 at most (default: none)",
    )
    add("--verbose", action="store_true", help="show Ray Data's log, and the traceback of a failure")
    add("--print-schema", action="store_true", help="print the columns a task adds, and stop")
    group = parser.add_argument_group("actors")
    add = group.add_argument
    add("--num-actors", type=int, metavar="N", help="a fixed pool (default: as many as fit)")
    add("--min-actors", type=int, metavar="N", help="a pool that grows and shrinks, with --max-actors")
    add("--max-actors", type=int, metavar="N")
    add("--num-cpus-per-actor", type=float, metavar="F", help="cores and threads of an actor")
    add("--num-gpus-per-actor", type=float, default=0.0, metavar="F", help="may be a fraction (default: 0)")
    add("--num-tokenizers", type=int, metavar="N", help="CPU workers tokenizing ahead (default: one a GPU actor, or 0)")
    add("--max-tokens-per-batch", type=int, metavar="N", help="token budget of a micro-batch")
    return parser


if __name__ == "__main__":
    sys.exit(main())
