"""Requests as rows of scoring jobs: those of one head and the same options together, each group a job.

GROUP/input.parquet    line, index (of the input in its request), and the columns that the task reads
GROUP/scored/          the job's output
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import lru_cache
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batch_job.endpoint import JobHead
from pipelines.scoring.actors.pool import ScoreOptions
from pipelines.scoring.actors.score_rows import load_predictor
from pipelines.scoring.checks import inspect_model
from pipelines.scoring.inputs.units import SOURCE_ROW
from pipelines.scoring.job import run_job
from pipelines.scoring.ledger.parts import PART_PREFIX, read_footer, read_part, read_parts
from pipelines.scoring.plan import Job
from pipelines.scoring.schemas import InputColumns, record_of
from pipelines.scoring.storage import locate, names_in
from serving.batches.storage import Storage
from serving.errors import ServingError

Row = tuple[int, int, dict[str, Any]]
"""Line, index of the input in its request, and its record."""

# Each is a job with a start of its own.
MAX_GROUPS = 32

_PLACE = {"line": pa.int64(), "index": pa.int32()}
# A row group of the input.
_BUFFERED_ROWS = 10_000
_BUFFERED_CHARACTERS = 8 * 2**20
_DECODED_ROWS = 256


class Group:
    """Rows that one scoring job scores. folder: of the storage."""

    def __init__(self, storage: Storage, folder: str, head: JobHead, options: Any, pair: bool) -> None:
        self.head = head
        self.num_rows = 0
        self._storage, self._folder, self._options = storage, folder, options
        self._columns = InputColumns(text_pair="text_pair" if pair else None)
        texts = {role: pa.list_(pa.string()) if role == "choices" else pa.string() for role in self._roles}
        self._schema = pa.schema(_PLACE | texts)
        self._rows: list[dict[str, Any]] = []
        self._characters = 0
        self._writer: pq.ParquetWriter | None = None
        self._rows_of_parts: dict[str, int] = {}

    @property
    def _roles(self) -> list[str]:
        return list(self._columns.of_task(self.head.task))

    def open(self, stack: ExitStack) -> None:
        """Before rows are added. Where an earlier job has written them all, they are only counted."""
        path = f"{self._folder}/input.parquet"
        if self._storage.size(path) is None:
            stream = stack.enter_context(self._storage.writing(path))
            self._writer = stack.enter_context(pq.ParquetWriter(stream, self._schema))

    def add(self, line: int, index: int, example: Any) -> None:
        self.num_rows += 1
        if self._writer is None:
            return
        texts = example if isinstance(example, dict) else {self._roles[0]: example}
        self._rows.append({"line": line, "index": index, **texts})
        self._characters += sum(len(text) for value in texts.values() for text in value)
        if len(self._rows) >= _BUFFERED_ROWS or self._characters >= _BUFFERED_CHARACTERS:
            self.flush()

    def flush(self) -> None:
        if self._rows and self._writer is not None:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._characters = [], 0

    def score(self, max_actors: int, out: TextIO) -> None:
        """Scores what is left."""
        given = self.head.arguments
        options = ScoreOptions(
            columns=self._columns,
            task_options=self._options,
            dtype=given.dtype or "",
            min_actors=1,
            max_actors=max_actors,
            num_cpus_per_actor=given.num_cpus,
            num_gpus_per_actor=given.num_gpus,
            max_tokens_per_batch=given.max_tokens_per_batch,
        )
        job = Job(
            task=self.head.task,
            model=given.checkpoint,
            inputs=[self._storage.place(f"{self._folder}/input.parquet")],
            output=self._output,
            options=options,
            keep=list(_PLACE),
            max_error_share=1.0,  # a request that fails is answered with its error
        )
        run_job(job, load=load_predictor, inspect=inspect_model, out=out)

    @property
    def _output(self) -> str:
        return self._storage.place(f"{self._folder}/scored")

    def count_scored(self) -> int:
        """Rows scored so far. Only part files that are new since the last time are read."""
        output = locate(self._output)
        for name in names_in(output):
            if name.startswith(PART_PREFIX) and name not in self._rows_of_parts:
                footer = read_footer(output.child(name))
                self._rows_of_parts[name] = footer.num_rows if footer is not None else 0
        return sum(self._rows_of_parts.values())

    def scored(self) -> Iterator[Row]:
        """The rows that are scored, in the order of the input."""
        output = locate(self._output)

        @lru_cache(maxsize=2)
        def part(name: str) -> pa.Table:
            return read_part(output.child(name))

        parts = read_parts(output)
        ranges = sorted((start, stop, name) for name, footer in parts.items() for _, start, stop in footer.ranges)
        for start, stop, name in ranges:
            rows = part(name).filter((pc.field(SOURCE_ROW) >= start) & (pc.field(SOURCE_ROW) < stop))
            for batch in rows.to_batches(max_chunksize=_DECODED_ROWS):
                for row in batch.to_pylist():
                    yield row["line"], row["index"], record_of(row, self.head.task)


class Groups:
    """The groups of a batch, in the order in which its requests first asked for them."""

    def __init__(self, storage: Storage, folder: str, on_new: Callable[[Group], None]) -> None:
        self._storage, self._folder, self._on_new = storage, folder, on_new
        self._groups: dict[str, Group] = {}

    def __iter__(self) -> Iterator[Group]:
        return iter(self._groups.values())

    def of(self, head: JobHead, example: Any, options: Any) -> Group:
        """Raises ServingError for one more set of options than a batch may have."""
        pair = isinstance(example, dict) and "text_pair" in example
        key = json.dumps([head.name, dataclasses.asdict(options), pair], sort_keys=True)
        if key not in self._groups:
            if len(self._groups) == MAX_GROUPS:
                message = f"parameters: the requests of a batch have {MAX_GROUPS} different sets of them, the limit"
                raise ServingError("invalid_input", message, param="parameters")
            folder = f"{self._folder}/{hashlib.sha256(key.encode()).hexdigest()[:16]}"
            self._groups[key] = Group(self._storage, folder, head, options, pair)
            self._on_new(self._groups[key])
        return self._groups[key]
