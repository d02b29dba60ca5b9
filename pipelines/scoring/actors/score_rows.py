"""Scoring rows with one predictor an actor: rows in, rows with results out.

A worked example, task masked-lm-scoring, a unit of two rows of which one is empty:

    in                      id="a" text="A long text."  source_file="x.parquet" source_row=0
                            id="b" text=""              source_file="x.parquet" source_row=1
    ScoreRows    adds       nll=2.31 ... num_tokens=4     error=None
                            nll=None ... num_tokens=None  error={"type": "InputError", ...}

Nothing a row holds stops a job: what the predictor raises becomes that row's `error`.

Knows predictors by their contract only, and nothing of command lines or of what is already done.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from bigbird.errors import InputError
from pipelines.scoring.actors.tokenize_rows import PREPARED, prepared_rows, unpack
from pipelines.scoring.checks import check_same
from pipelines.scoring.schemas import ERROR_FIELD, examples, record_columns

Record = dict[str, Any]
Window = tuple[int, int]

# A window is what a predictor sees at once and sorts by length: enough rows to fill token budgets evenly, few
# enough that the tokens and outputs of a window stay small beside the model.
WINDOW_ROWS = 1024
WINDOW_CHARS = 2_000_000

# Causes that may be gone on the next start. Anything else is a property of the row, and stays done.
RETRYABLE = frozenset(
    {"OutOfMemoryError", "MemoryError", "OSError", "TimeoutError", "ConnectionError", "AcceleratorError"}
)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What an actor needs to make its predictor and to read rows. Travels to the actors by pickle.

    `columns` maps the example's fields to columns, `results` are the declared result columns, written with `prefix`,
    and `load` is `bigbird.load_predictor` or a stand-in with its signature. `gpu_share`: of a GPU's memory, for an
    actor. `digest`: of the checkpoint's files, which an actor compares with those it is about to load; None for no
    comparison.
    """

    task: str
    model: str
    columns: Mapping[str, str]
    results: Sequence[pa.Field]
    load: Callable[..., Any]
    digest: str | None = None
    task_options: Any = None
    device: str = "cpu"
    gpu_share: float = 1.0
    dtype: str = "float32"
    num_threads: int | None = None
    max_tokens_per_batch: int | None = None
    window_rows: int = WINDOW_ROWS
    prefix: str = ""

    def predictor(self, *, weights: bool = True) -> Any:
        """Load the model, with the threads and the share of a GPU this actor was given; without weights, only its
        tokenizer.

        Raises CheckpointError for files that are not those of `digest`.
        """
        if self.digest and weights:
            check_same(self.model, self.digest)
        if weights and (self.num_threads or self.gpu_share < 1):
            import torch  # here, so that the driver and readers, which never compute, need not load it

            if self.num_threads:
                torch.set_num_threads(self.num_threads)
            if self.gpu_share < 1:
                torch.cuda.set_per_process_memory_fraction(self.gpu_share)
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

    Where the table comes from `actors.tokenize_rows`, its rows are tokenized already, and that column goes.
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
        fields = [*self.stage.results, ERROR_FIELD]
        for field, column in zip(fields, record_columns(records, self.stage.task, self.stage.results), strict=True):
            name = f"{self.stage.prefix}{field.name}"
            if name in table.column_names:  # of a pipeline whose schema nobody knew before
                raise InputError(f"column {name!r} is there already; give the results a prefix")
            table = table.append_column(field.with_name(name), column)
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
