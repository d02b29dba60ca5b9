"""The classes Ray Data runs: one predictor an actor, rows in, rows with results out, or a finished file out.

A worked example, task masked-lm-scoring, a unit of two rows of which one is empty:

    in                      id="a" text="A long text."  source_file="x.parquet" source_row=0
                            id="b" text=""              source_file="x.parquet" source_row=1
    ScoreRows    adds       nll=2.31 ... num_tokens=4     error=None
                            nll=None ... num_tokens=None  error={"type": "InputError", ...}
    ScoreUnit    writes     part-<...>.parquet with these two rows, and hands on its name and summary

Nothing a row holds stops a job: what the predictor raises becomes that row's `error`; a row that kills its
process again and again is found with the help of `pipelines.watch` and marked.

Knows predictors by their contract only, and nothing of command lines or of what is already done.
"""

import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray.util.metrics import Counter

from pipelines.reading import READ_ERROR
from pipelines.report import summarize
from pipelines.resume import Footer, part_name, ranges_of, read_footer, write_part
from pipelines.schemas import ERROR_TYPE, examples, record_columns
from pipelines.storage import Place
from pipelines.tokenizing import PREPARED, prepared_rows, unpack
from pipelines.units import SOURCE_FILE, SOURCE_ROW
from pipelines.watch import DEATHS_TO_MARK_A_ROW, Verdict, split_windows

Record = dict[str, Any]
Window = tuple[int, int]

REPLACES = "__replaces"

# A window is what a predictor sees at once and sorts by length: enough rows to fill token budgets evenly, few
# enough that the tokens and outputs of a window stay small beside the model.
WINDOW_ROWS = 1024
WINDOW_CHARS = 2_000_000

# Causes that may be gone on the next start. Anything else is a property of the row, and stays done.
RETRYABLE = frozenset(
    {"OutOfMemoryError", "MemoryError", "OSError", "TimeoutError", "ConnectionError", "AcceleratorError"}
)

_WRITE_ATTEMPTS = 5


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What an actor needs to make its predictor and to read rows. Travels to the actors by pickle.

    `columns` maps the example's fields to columns, `results` are the declared result columns, and `load` is
    `bigbird.load_predictor` or a stand-in with its signature.
    """

    task: str
    model: str
    columns: Mapping[str, str]
    results: Sequence[pa.Field]
    load: Callable[..., Any]
    task_options: Any = None
    device: str = "cpu"
    dtype: str = "float32"
    num_threads: int | None = None
    max_tokens_per_batch: int | None = None
    window_rows: int = WINDOW_ROWS

    def predictor(self, *, weights: bool = True) -> Any:
        """Load the model, with the threads this actor was given; without weights, only its tokenizer."""
        if self.num_threads and weights:
            import torch  # here, so that the driver and readers, which never compute, need not load it

            torch.set_num_threads(self.num_threads)
        return self.load(
            self.task,
            self.model,
            device=self.device,
            dtype=self.dtype,
            max_tokens_per_batch=self.max_tokens_per_batch,
            options=self.task_options,
            weights=weights,
        )


class ScoreRows:
    """`map_batches` class: a table in, the same table with the result columns and `error` out.

    Where the table comes from `pipelines.tokenizing`, its rows are tokenized already, and that column goes.
    """

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.predictor = stage.predictor()
        self._ahead = ThreadPoolExecutor(1)

    def __call__(self, table: pa.Table) -> pa.Table:
        rows = examples(table, self.stage.task, self.stage.columns)
        records = list(self.records(rows, self.windows(rows), prepared_rows(table)))
        kept = [name for name in table.column_names if name != PREPARED]
        return self.with_results(table.select(kept), records)

    def windows(self, rows: Sequence[Any]) -> list[Window]:
        """Cut rows into windows of bounded rows and characters."""
        windows: list[Window] = []
        start = chars = 0
        for index, row in enumerate(rows):
            size = _num_chars(row)
            if index > start and (index - start >= self.stage.window_rows or chars + size > WINDOW_CHARS):
                windows.append((start, index))
                start, chars = index, 0
            chars += size
        return [*windows, (start, len(rows))] if len(rows) > start else windows

    def records(
        self, rows: Sequence[Any], windows: Sequence[Window], prepared: Sequence[bytes | None]
    ) -> Iterator[Record]:
        """Records of all rows in order, tokenizing (or unpacking `prepared`) one window ahead of the model."""
        ahead = [self._ahead.submit(self._prepare, rows[a:b], prepared[a:b]) for a, b in windows[:1]]
        for index, (start, stop) in enumerate(windows):
            ready = ahead.pop().result()
            following = windows[index + 1 : index + 2]
            ahead = [self._ahead.submit(self._prepare, rows[a:b], prepared[a:b]) for a, b in following]
            yield from self._finish(rows[start:stop], ready)

    def with_results(self, table: pa.Table, records: Sequence[Record]) -> pa.Table:
        """The table with the records as columns of the declared types."""
        fields = [*self.stage.results, pa.field("error", ERROR_TYPE)]
        for field, column in zip(fields, record_columns(records, self.stage.task, self.stage.results), strict=True):
            table = table.append_column(field, column)
        return table

    def score_alone(self, rows: Sequence[Any]) -> list[Record]:
        """Records of some rows without tokenizing ahead, so that whatever happens, happened to these rows."""
        return self._finish(rows, self._prepare(rows, [None] * len(rows)))

    def _prepare(self, rows: Sequence[Any], prepared: Sequence[bytes | None]) -> Any:
        try:
            if None not in prepared:
                return [unpack(value) for value in prepared if value is not None]
            return self.predictor.preprocess(rows)
        except Exception:  # which row it was, `_finish` finds out
            return None

    def _finish(self, rows: Sequence[Any], prepared: Any) -> list[Record]:
        try:
            if prepared is None:
                prepared = self.predictor.preprocess(rows)
            records = self.predictor.postprocess(prepared, self.predictor.forward(prepared))
            if len(records) != len(rows):
                raise AssertionError(f"{len(records)} records for {len(rows)} examples")
            return [_marked(record) for record in records]
        except Exception as error:
            failed = error_record(error)
        _free_memory(failed)
        if len(rows) == 1:
            return [failed]
        middle = len(rows) // 2
        return [record for half in (rows[:middle], rows[middle:]) for record in self._finish(half, None)]


class ScoreUnit:
    """`map_batches` class of the job: the rows of one unit in, one finished output file, its name and summary out.

    Called again for a unit that is already written (Ray runs a call again when it loses the answer), it answers
    from the file's footer.
    """

    def __init__(
        self, stage: Stage, output: Place, run: str, schema: pa.Schema, watch: Any, report_interval_s: float
    ) -> None:
        self.output = output
        self.run = run
        self.schema = schema
        self.watch = watch
        self.worker = f"{ray.get_runtime_context().get_node_id()[:8]}-{os.getpid()}-{uuid.uuid4().hex[:4]}"
        self._counts = dict.fromkeys(("documents", "tokens", "errors", "busy_s"), 0.0)
        self._report_interval_s = report_interval_s
        self._reported = 0.0
        self._metrics = _metrics(stage.task)
        self._report(now=True)  # there is a process; that it is loading the model is another kind of waiting
        self.scorer = ScoreRows(stage)

    def __call__(self, table: pa.Table) -> pa.Table:
        if table.num_rows == 0:
            return _answer([], [])
        replaces = table[REPLACES][0].as_py()
        ranges = ranges_of(table[SOURCE_FILE], table[SOURCE_ROW])
        name = replaces or part_name(self.run, ranges)
        if not replaces:
            written = read_footer(self.output.child(name))
            if written is not None and written.run == self.run:
                return _answer([name], [written.summary])
        started = time.time()
        unit = f"{name}/{ranges[0][1]}"
        records = self._score(table, unit, ray.get(self.watch.begin.remote(unit)))
        scored = self.scorer.with_results(table, records).select(self.schema.names).cast(self.schema)
        summary = summarize(scored, self.scorer.stage.task)
        summary |= {"started": started, "finished": time.time(), "worker": self.worker}
        if replaces:
            self._replace(name, scored)
        else:
            self._write(name, scored, Footer(self.run, tuple(ranges), summary))
        self.watch.finish.remote(unit)
        self._counts["busy_s"] += time.time() - started
        self._report(now=True)
        return _answer([name], [summary])

    def _score(self, table: pa.Table, unit: str, verdict: Verdict) -> list[Record]:
        """Records of all rows. Rows that are unreadable or marked reach the predictor as None, which costs nothing."""
        rows = examples(table, self.scorer.stage.task, self.scorer.stage.columns)
        known: dict[int, Record] = {}
        for index, message in enumerate(table[READ_ERROR].to_pylist()):
            if message is not None:
                passing = message.partition(":")[0] in RETRYABLE
                known[index] = {"error": {"type": "ReadError", "message": message, "retryable": passing}}
        for index in verdict.marked:
            message = f"the process that scored this row died {DEATHS_TO_MARK_A_ROW} times"
            known[index] = {"error": {"type": "ProcessDied", "message": message, "retryable": False}}
        rows = [None if index in known else row for index, row in enumerate(rows)]
        windows = self.scorer.windows(rows)
        if verdict.deaths:
            stream = self._carefully(unit, rows, split_windows(windows, verdict.suspects))
        else:
            stream = self.scorer.records(rows, windows, prepared_rows(table))
        records = []
        for index, record in enumerate(stream):
            records.append(known.get(index, record))
            self._count(records[-1])
        return records

    def _carefully(self, unit: str, rows: Sequence[Any], windows: Sequence[Window]) -> Iterator[Record]:
        for start, stop in windows:
            ray.get(self.watch.enter.remote(unit, start, stop))
            yield from self.scorer.score_alone(rows[start:stop])

    def _replace(self, name: str, scored: pa.Table) -> None:
        """Put rows that were scored again into their file. It keeps its times: throughput is that of whole files."""
        place = self.output.child(name)
        footer = read_footer(place)
        assert footer is not None, f"{place.name} was there when this start began"
        finished = pq.read_table(place.path, filesystem=place.filesystem, partitioning=None)
        whole = replace_rows(finished, scored)
        times = {key: footer.summary[key] for key in ("started", "finished", "worker")}
        summary = summarize(whole, self.scorer.stage.task) | times
        self._write(name, whole, Footer(self.run, footer.ranges, summary))

    def _write(self, name: str, table: pa.Table, footer: Footer) -> None:
        for attempt in range(_WRITE_ATTEMPTS):
            try:
                write_part(self.output, name, table, footer)
                return
            except OSError:
                if attempt == _WRITE_ATTEMPTS - 1:
                    raise
                time.sleep(2**attempt)

    def _count(self, record: Record) -> None:
        tokens = record.get("num_tokens") or 0
        failed = record.get("error") is not None
        for key, value in (("documents", 1), ("tokens", tokens), ("errors", int(failed))):
            self._counts[key] += value
            if value:
                self._metrics[key].inc(value)
        self._report()

    def _report(self, now: bool = False) -> None:
        clock = time.monotonic()
        if now or clock - self._reported >= self._report_interval_s:
            self._reported = clock
            self.watch.progress.remote(self.worker, dict(self._counts))


def replace_rows(finished: pa.Table, scored: pa.Table) -> pa.Table:
    """The rows of a finished file with those that were scored again in their new form, in the old order."""
    again = set(zip(scored[SOURCE_FILE].to_pylist(), scored[SOURCE_ROW].to_pylist(), strict=True))
    origins = zip(finished[SOURCE_FILE].to_pylist(), finished[SOURCE_ROW].to_pylist(), strict=True)
    kept = finished.filter(pa.array([origin not in again for origin in origins], pa.bool_()))
    merged = pa.concat_tables([kept.replace_schema_metadata(None).cast(scored.schema), scored])
    return merged.sort_by([(SOURCE_FILE, "ascending"), (SOURCE_ROW, "ascending")])


def error_record(error: Exception) -> Record:
    """What becomes of a row whose scoring raised."""
    message = str(error) or repr(error)
    kind = type(error).__name__
    return {"error": {"type": kind, "message": message[:2000], "retryable": kind in RETRYABLE}}


def _marked(record: Record) -> Record:
    """A predictor's record; its error says whether another attempt may help."""
    error = record.get("error")
    if error is None:
        return record
    return {**record, "error": {**error, "retryable": error["type"] in RETRYABLE}}


def _num_chars(row: Any) -> int:
    if isinstance(row, str):
        return len(row)
    if isinstance(row, Mapping):
        return sum(_num_chars(value) for value in row.values())
    return sum(map(_num_chars, row)) if isinstance(row, list) else 0


def _free_memory(failed: Record) -> None:
    if failed["error"]["type"] in ("OutOfMemoryError", "AcceleratorError"):
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _answer(names: list[str], summaries: list[Mapping[str, Any]]) -> pa.Table:
    texts = [json.dumps(summary) for summary in summaries]
    return pa.table({"part": pa.array(names, pa.string()), "summary": pa.array(texts, pa.string())})


def _metrics(task: str) -> dict[str, Any]:
    counters = {}
    for what in ("documents", "tokens", "errors"):
        counter = Counter(f"bigbird_scored_{what}", description=f"{what} scored by jobs", tag_keys=("task",))
        counter.set_default_tags({"task": task})
        counters[what] = counter
    return counters
