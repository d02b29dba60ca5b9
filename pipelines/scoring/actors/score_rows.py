"""Scoring rows with one predictor a score in every actor: rows in, rows with results out.

A worked example, task masked-lm-scoring, a unit of two rows of which one is empty:

    in                      id="a" text="A long text."  source_file="x.parquet" source_row=0
                            id="b" text=""              source_file="x.parquet" source_row=1
    ScoreRows    adds       nll=2.31 ... num_tokens=4     error=None
                            nll=None ... num_tokens=None  error={"type": "InputError", ...}

Several scores each add theirs: `a_nll ... a_error`, `b_labels ... b_error`. Nothing a row holds stops a job: what a
predictor raises becomes that row's error of that score.

Knows predictors by their contract only, and nothing of command lines or of what is already done. Imports torch where
it computes: a driver, which only describes the work, does not wait for it.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

import bigbird
from bigbird.errors import InputError
from pipelines.scoring.actors.tokenize_rows import by_score, prepared_rows, unpack
from pipelines.scoring.checks import check_same
from pipelines.scoring.inputs.units import PREPARED
from pipelines.scoring.schemas import ERROR_FIELD, examples, record_columns
from pipelines.scoring.scores import Score

Row = tuple[Any, ...]
"""One row as the predictors take it: the example of each score."""
Record = dict[str, Any]
Records = tuple[Record, ...]
"""What becomes of one row: the record of each score."""
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
class StagedScore(Score):
    """A score with what an actor needs to compute it.

    `columns` maps the example's fields to columns, `results` are the declared result columns. location: where the
    model is loaded from, as the files whose digest is `digest`; None for no comparison. encoder: digest of the
    encoder, where scores of one encoder are to share it.
    """

    columns: Mapping[str, str]
    results: Sequence[pa.Field]
    digest: str = ""
    location: str | None = None
    encoder: str | None = None


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What an actor needs to make its predictors and to read rows. Travels to the actors by pickle.

    `load` is `load_predictor` or a stand-in with its signature. `gpu_share`: of a GPU's memory, for an
    actor. `prefix`: of the names of all columns that are added.
    """

    scores: Sequence[StagedScore]
    load: Callable[..., Any]
    device: str = "cpu"
    gpu_share: float = 1.0
    dtype: str = "float32"
    num_threads: int | None = None
    max_tokens_per_batch: int | None = None
    window_rows: int = WINDOW_ROWS
    prefix: str = ""

    @property
    def columns(self) -> dict[str, str]:
        """The columns that any score reads, by the names of examples' fields."""
        return {role: name for score in self.scores for role, name in score.columns.items()}

    @property
    def results(self) -> dict[str, Sequence[pa.Field]]:
        """The result columns of each score, by what stands before their names."""
        return {score.prefix: score.results for score in self.scores}

    def examples(self, table: pa.Table) -> list[Row]:
        """The rows of a table as the predictors take them."""
        return examples(table, [score.columns for score in self.scores])

    def predictors(self, *, weights: bool = True) -> Any:
        """Load the models, with the threads and the share of a GPU this actor was given; without weights, only their
        tokenizers. An encoder that several have is held once. Returns a `bigbird.predictors.Together`.

        Raises CheckpointError for files that are not those that the job started with.
        """
        import torch

        from bigbird.predictors import Together

        if weights:
            for location, digest in {(score.location, score.digest) for score in self.scores if score.location}:
                check_same(location, digest)
            if self.num_threads:
                torch.set_num_threads(self.num_threads)
            if self.gpu_share < 1:
                torch.cuda.set_per_process_memory_fraction(self.gpu_share)
        encoders: dict[str, Any] = {}
        loaded = []
        for score in self.scores:
            shared = {"encoder": encoders[score.encoder]} if score.encoder in encoders else {}
            predictor = self.load(
                score.task,
                score.location or score.model,
                device=self.device,
                dtype=self.dtype,
                max_tokens_per_batch=self.max_tokens_per_batch,
                options=score.options,
                weights=weights,
                **shared,
            )
            if weights and score.encoder:
                encoders.setdefault(score.encoder, predictor.model.base_model)
            loaded.append(predictor)
        return Together(loaded)


def load_predictor(*arguments: Any, **keywords: Any) -> Any:
    """`bigbird.load_predictor`, and with it torch, looked up where it is called."""
    return bigbird.load_predictor(*arguments, **keywords)


class ScoreRows:
    """`map_batches` class: a table in, the same table with the result columns and `error` out.

    Where the table comes from `actors.tokenize_rows`, its rows are tokenized already, and that column goes.
    """

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.predictors = stage.predictors()
        self.lost_and_doubled: Counter[str] = Counter()
        """Tokens of texts that were lost and doubled (`bigbird.predictors.examples.Prepared`), until it is cleared."""
        self._ahead = ThreadPoolExecutor(1)

    def __call__(self, table: pa.Table) -> pa.Table:
        rows = self.stage.examples(table)
        records = list(self.records(rows, self.windows(rows), prepared_rows(table)))
        kept = [name for name in table.column_names if name != PREPARED]
        return self.with_results(table.select(kept), records)

    def windows(self, rows: Sequence[Row]) -> list[Window]:
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
        self, rows: Sequence[Row], windows: Sequence[Window], prepared: Sequence[bytes | None]
    ) -> Iterator[Records]:
        """Records of all rows in order, tokenizing (or unpacking `prepared`) one window ahead of the model."""
        ahead = [self._ahead.submit(self._prepare, rows[a:b], prepared[a:b]) for a, b in windows[:1]]
        for index, (start, stop) in enumerate(windows):
            ready = ahead.pop().result()
            following = windows[index + 1 : index + 2]
            ahead = [self._ahead.submit(self._prepare, rows[a:b], prepared[a:b]) for a, b in following]
            yield from self._finish(rows[start:stop], ready)

    def with_results(self, table: pa.Table, records: Sequence[Records]) -> pa.Table:
        """The table with the records as columns of the declared types."""
        for number, score in enumerate(self.stage.scores):
            fields = [*score.results, ERROR_FIELD]
            columns = record_columns([of_row[number] for of_row in records], score.task, score.results)
            for field, column in zip(fields, columns, strict=True):
                name = f"{self.stage.prefix}{score.prefix}{field.name}"
                if name in table.column_names:  # of a pipeline whose schema nobody knew before
                    raise InputError(f"column {name!r} is there already; give the results a prefix")
                table = table.append_column(field.with_name(name), column)
        return table

    def score_alone(self, rows: Sequence[Row]) -> list[Records]:
        """Records of some rows without tokenizing ahead, so that whatever happens, happened to these rows."""
        return self._finish(rows, self._prepare(rows, [None] * len(rows)))

    def _prepare(self, rows: Sequence[Row], prepared: Sequence[bytes | None]) -> Any:
        try:
            if None not in prepared:
                return by_score([unpack(value) for value in prepared if value is not None])
            return self.predictors.preprocess(by_score(rows))
        except Exception:  # which row it was, `_finish` finds out
            return None

    def _finish(self, rows: Sequence[Row], prepared: Any) -> list[Records]:
        try:
            if prepared is None:
                prepared = self.predictors.preprocess(by_score(rows))
            records = _scored(self.predictors, rows, prepared)
            for of_row in zip(*prepared, strict=True):  # scores read the same text
                for what in ("lost", "doubled"):
                    self.lost_and_doubled[what] += max(getattr(item, f"num_{what}", 0) for item in of_row)
            return records
        except Exception as error:
            failed = error_record(error)
        _free_memory(failed)
        if len(rows) > 1:
            middle = len(rows) // 2
            return [records for half in (rows[:middle], rows[middle:]) for records in self._finish(half, None)]
        alone = self.predictors.alone()
        if len(alone) == 1:
            return [(failed,)]
        return [tuple(map(_scored_or_failed, alone, rows[0]))]


def _scored(predictors: Any, rows: Sequence[Row], prepared: Any = None) -> list[Records]:
    if prepared is None:
        prepared = predictors.preprocess(by_score(rows))
    records = predictors.postprocess(prepared, predictors.forward(prepared))
    for of_score in records:
        if len(of_score) != len(rows):
            raise AssertionError(f"{len(of_score)} records for {len(rows)} examples")
    return [tuple(map(_marked, of_row)) for of_row in zip(*records, strict=True)]


def _scored_or_failed(predictor: Any, example: Any) -> Record:
    try:
        return _scored(predictor, [(example,)])[0][0]
    except Exception as error:
        return error_record(error)


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
    if isinstance(row, tuple):  # scores read the same texts, most often
        return max(map(_num_chars, row))
    if isinstance(row, Mapping):
        return sum(_num_chars(value) for value in row.values())
    return sum(map(_num_chars, row)) if isinstance(row, list) else 0


def _free_memory(failed: Record) -> None:
    if failed["error"]["type"] in ("OutOfMemoryError", "AcceleratorError"):
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()
