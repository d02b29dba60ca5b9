"""The command line of a scoring job: its options, its help, and the job that they describe."""

import argparse
import dataclasses
import math
import re
import types
import typing
from collections import Counter
from typing import Any

from bigbird.errors import InputError
from bigbird.predictors import OPTIONS
from pipelines.command_line import Parser
from pipelines.scoring.actors.pool import ScoreOptions
from pipelines.scoring.checks import parse_options
from pipelines.scoring.plan import Job
from pipelines.scoring.proof.compare import TOLERANCES
from pipelines.scoring.schemas import TASKS, InputColumns
from pipelines.scoring.scores import FORM, Score

PROG = "bigbird-score"

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMG]?)(?:i?B)?", re.IGNORECASE)
_FACTORS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_DTYPES = ("float32", "bfloat16", "float16", "int8", "auto")

_EXAMPLES = f"""\
examples:
  {PROG} --task token-classification --model checkpoints/token-classification --input corpus.parquet --output scored
      score a corpus; the same command goes on with what a stopped one left
  {PROG} --task masked-lm-scoring --model m --input 'in/**/*.jsonl' --output s3://bucket/scored --option metric=exact
      with an option of the task, files of JSON lines, and an output in an object store
  {PROG} --score ner=token-classification:my-tagger --score topic=text-classification:my-topics:top_k=1 \
      --input corpus.parquet --output scored
      two scores in one pass: columns ner_entities, ner_error, topic_labels, topic_error
  {PROG} ... --dry-run
      what it would do: files, rows, units, actors, what is done already
  {PROG} ... --estimate --num-actors 64 --price-per-hour 1.2
      tokens, hours and cost of what is left, from a sample of it
  {PROG} verify scored --sample 100
      prove an output: its files, model and inputs by their digests, and 100 rows by scoring them again
  {PROG} --report-only --output scored
      draw the report again
"""

_EXIT_CODES = """\
exit codes:
  0  every row is scored
  3  every row is in the output, some with their error instead of a result
  1  stopped on the way: what is done stays done, and the same command goes on; of verify: something differs
  2  refused, in one line, before anything started
"""


_VERIFY_HELP = f"""\
numbers agree where they are apart by at most this share of the larger one, or of 1 where that is less, by the dtype of
the model: {", ".join(f"{dtype} {tolerance:g}" for dtype, tolerance in TOLERANCES.items())}; all else must be equal.

examples:
  {PROG} verify scored --sample 100 --seed 1
  {PROG} verify scored --endpoint http://127.0.0.1:8000

exit codes:
  0  proved
  1  something differs: each difference is a line, with its file, row and column
  2  refused: there is no receipt, or no model where it was
"""


def parser() -> Parser:
    """The parser of `bigbird-score`, without `verify`, which has its own."""
    parser = Parser(
        PROG,
        "Score Parquet or JSON lines with a BigBird model, resumably. `verify OUTPUT` proves what a job wrote.",
        f"{_EXAMPLES}\n{_EXIT_CODES}\n{_options_help()}",
    )
    parser.usage = f"{PROG} --task TASK --model MODEL --input PATH ... --output DIR [options]"
    add = parser.add_argument
    add("--task", metavar="TASK", help=f"one of {', '.join(TASKS)}")
    add("--model", metavar="DIR_OR_HUB_ID", help="a Hugging Face directory, or the id of one on the hub")
    several = "several scores in one pass, in the place of --task and --model: NAME_ begins the columns of each"
    add("--score", action="append", default=[], metavar=FORM, help=several)
    add("--input", nargs="+", metavar="PATH", help="files, folders, globs or URIs; Parquet or JSON lines")
    add("--output", metavar="DIR", help="a directory or URI; its own ledger, so the same one continues a job")
    _add_columns(parser)
    _add_scoring(parser)
    _add_actors(parser)
    group = parser.add_argument_group("instead of scoring")
    instead = group.add_mutually_exclusive_group()
    add = instead.add_argument
    add("--dry-run", action="store_true", help="say what a start would do, and write nothing")
    add("--estimate", action="store_true", help="time a sample; print tokens, hours and, with a price, cost")
    add("--report-only", action="store_true", help="draw the report of --output again, from its ledger")
    add("--print-schema", action="store_true", help="print the columns a task adds; with --input, all of the output")
    return parser


def verify_parser() -> Parser:
    """The parser of `bigbird-score verify`."""
    parser = Parser(
        f"{PROG} verify",
        "Prove an output: its files, models and inputs are those of its receipt, and rows drawn at random come out the "
        "same when they are scored again, one by one, or by a live endpoint.",
        _VERIFY_HELP,
    )
    add = parser.add_argument
    add("output", metavar="OUTPUT", help="the output of a job that is done, or done up to its --limit")
    add("--sample", type=int, default=20, metavar="N", help="rows to score again (default: 20; 0: digests only)")
    add("--seed", type=int, metavar="N", help="of the rows that are drawn (default: another every time, which is said)")
    add("--endpoint", metavar="URL", help="ask the server there instead; a key it asks for stands in BIGBIRD_API_KEY")
    add("--model", metavar="DIR_OR_HUB_ID", help="where the model is now (default: where it was)")
    add("--input", nargs="+", metavar="PATH", help="where the inputs are now (default: where they were)")
    add("--verbose", action="store_true", help="show the traceback of a failure")
    return parser


def _add_columns(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("columns").add_argument
    add("--text-column", metavar="NAME", help="column of the text (default: text; doc.body reaches into a struct)")
    add("--text-pair-column", metavar="NAME", help="second text of text-classification (default: none)")
    add("--question-column", metavar="NAME", help="default: question")
    add("--context-column", metavar="NAME", help="default: context")
    add("--prompt-column", metavar="NAME", help="default: prompt")
    add("--choices-column", metavar="NAME", help="a list of strings (default: choices)")
    add("--columns", nargs="*", metavar="NAME", help="input columns kept beside the results (default: all)")
    add("--id-column", metavar="NAME", help="kept, and refused where a value is null or occurs twice")
    add("--prefix", default="", metavar="TEXT", help="of the names of all columns that are written, such as ner_")


def _add_scoring(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is done")
    add = group.add_argument
    add("--option", action="append", default=[], metavar="NAME=VALUE", help="an option of the task (below), repeatable")
    add(
        "--dtype",
        default="",
        choices=_DTYPES,
        help="of the model (default: bfloat16 on GPUs, else float32; auto: bfloat16 where it is faster)",
    )
    add("--limit", type=int, metavar="N", help="only the first N rows; without it later, the job goes on")
    add("--overwrite", action="store_true", help="replace what another run left, or this one finished; go on otherwise")
    share = "stop when more of all rows fail in one way (default: 0.01, and 10 rows in any case)"
    add("--max-error-share", type=float, metavar="F", help=share)
    add("--target-file-size", metavar="SIZE", help="input text to an output file, such as 64M")
    shown = "show the texts of the N lowest and highest documents in the report, 3 at most (default: none)"
    add("--report-documents", type=int, default=0, metavar="N", help=shown)
    price = "of one machine, in your currency: the estimate and the report say what it comes to"
    add("--price-per-hour", type=float, metavar="F", help=price)
    said = group.add_mutually_exclusive_group()
    said.add_argument("--quiet", action="store_true", help="say nothing but what went wrong")
    said.add_argument("--verbose", action="store_true", help="show Ray Data's log, and the traceback of a failure")


def _add_actors(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("actors").add_argument
    add("--num-actors", type=int, metavar="N", help="a fixed pool (default: as many as fit)")
    add("--min-actors", type=int, metavar="N", help="a pool that grows and shrinks, with --max-actors")
    add("--max-actors", type=int, metavar="N", help="how far it grows")
    add("--num-cpus-per-actor", type=float, metavar="F", help="cores and threads of an actor")
    add("--num-gpus-per-actor", type=float, default=0.0, metavar="F", help="may be a fraction (default: 0)")
    add("--num-tokenizers", type=int, metavar="N", help="CPU workers tokenizing ahead (default: one a GPU actor, or 0)")
    add("--max-tokens-per-batch", type=int, metavar="N", help="token budget of a micro-batch")


def job_of(arguments: argparse.Namespace) -> Job:
    """The job that a command line describes. Raises InputError for a value that is none."""
    return Job(
        task=arguments.task or "",
        model=arguments.model or "",
        scores=scores_given(arguments),
        inputs=arguments.input,
        output=arguments.output,
        options=score_options(arguments),
        keep=arguments.columns,
        id_column=arguments.id_column,
        limit=arguments.limit,
        unit_bytes=_bytes(arguments.target_file_size) if arguments.target_file_size else None,
        overwrite=arguments.overwrite,
        max_error_share=arguments.max_error_share,
        report_documents=arguments.report_documents,
        price_per_hour=arguments.price_per_hour,
    )


def scores_given(arguments: argparse.Namespace) -> list[Score]:
    """The scores of `--score`. Raises InputError for a text that is none."""
    return [Score.parse(text) for text in arguments.score]


def score_options(arguments: argparse.Namespace) -> ScoreOptions:
    """How rows are scored.

    Raises InputError for an unknown task or option, a value that is none, and a column that no task reads.
    """
    roles = ("text", "text_pair", "question", "context", "prompt", "choices")
    given = {role: getattr(arguments, f"{role}_column") for role in roles}
    given = {role: name for role, name in given.items() if name is not None}
    columns = InputColumns(**given)
    tasks = [score.task for score in scores_given(arguments)] or [arguments.task]
    read = {role for task in tasks for role in columns.of_task(task)}
    for role in given:
        if role not in read:
            raise InputError(f"--{role.replace('_', '-')}-column is not read by {' or '.join(tasks)}")
    task_options = None
    if not arguments.score:
        task_options = parse_options(OPTIONS[arguments.task], arguments.option)
    elif arguments.option:
        raise InputError(f"--option is for --task; a score has its options in itself: {FORM}")
    return ScoreOptions(
        columns=columns,
        task_options=task_options,
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


def _bytes(text: str) -> int:
    match = _SIZE.fullmatch(text.strip())
    size = float(match[1]) * _FACTORS[match[2].upper()] if match else 0.0
    if not 1 <= size < math.inf:
        raise InputError(f"size {text!r}: expected a number with K, M or G, such as 64M")
    return int(size)


def _options_help() -> str:
    """Every task's options with their types and defaults, those that most tasks share once."""
    lines = ["options of the tasks, each as --option NAME=VALUE:"]
    texts: dict[str, dict[str, str]] = {}
    for task in TASKS:
        hints = typing.get_type_hints(OPTIONS[task])
        for field in dataclasses.fields(OPTIONS[task]):
            kind = _type_text(hints[field.name])
            text = f"{field.name}={kind} (default: {_default_text(field.default, hints[field.name])})"
            texts.setdefault(task, {})[field.name] = text
    having = Counter(text for own in texts.values() for text in own.values())
    most = [text for text, count in having.items() if count == len(TASKS) - 1]
    without = {task: [text for text in most if text not in own.values()] for task, own in texts.items()}
    lines.append("  all tasks" + "".join(f", but {task}" for task, lacks in without.items() if lacks))
    lines += [f"    {text}" for text in most]
    for task, own in texts.items():
        lines.append(f"  {task}")
        lines += [f"    {text}" for text in own.values() if text not in most or without[task]]
    return "\n".join(lines)


def _type_text(hint: Any) -> str:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        (kind,) = (_type_text(part) for part in typing.get_args(hint) if part is not type(None))
        return kind if "none" in kind.split("|") else f"{kind}|none"
    if typing.get_origin(hint) is typing.Literal:
        return "|".join(typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)[0]
        return "JSON" if typing.get_origin(inner) else f"{_type_text(inner)},..."
    return {bool: "true|false", int: "INT", float: "FLOAT", str: "TEXT"}[hint]


def _default_text(value: Any, hint: Any) -> str:
    if value is None:
        own = [choice for part in typing.get_args(hint) for choice in typing.get_args(part)]
        return "what the checkpoint says" if "none" in own else "none"
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "empty"
    return str(value).lower() if isinstance(value, bool) else str(value)
