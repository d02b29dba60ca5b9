"""The inputs of requests as rows of scoring jobs: requests to one head with equal options are a group.

work/KEY/input.parquet    line of the input file, index of the input in its request, and the columns of the task
work/KEY/scored/          the output of the group's scoring job
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from batch_job.endpoint import BatchHead
from bigbird.errors import BigBirdError, CheckpointError
from bigbird.predictors import OPTIONS
from pipelines.scoring.actors.pool import ScoreOptions
from pipelines.scoring.actors.score_rows import load_predictor
from pipelines.scoring.checks import ModelInfo, inspect_model
from pipelines.scoring.job import run_job
from pipelines.scoring.ledger.parts import PART_PREFIX, read_footer, rows_in_order
from pipelines.scoring.plan import Job
from pipelines.scoring.schemas import InputColumns, record_of
from pipelines.scoring.storage import locate, names_in
from serving.batches.storage import Storage
from serving.errors import ServingError
from serving.settings import HeadArguments

Row = tuple[int, int, dict[str, Any]]
"""Line, index of the input in its request, and its record."""

# Each starts a scoring job of its own.
MAX_GROUPS = 32

_ORIGIN = {"line": pa.int64(), "index": pa.int32()}
# One row group of input.parquet.
_BUFFERED_ROWS = 10_000
_BUFFERED_CHARACTERS = 8 * 2**20


class Group:
    """The rows of one scoring job. folder: in the storage. pair: rows have `text` and `text_pair`."""

    def __init__(self, storage: Storage, folder: str, name: str, head: HeadArguments, options: Any, pair: bool) -> None:
        self.name = name
        self.head = head
        self.num_rows = 0
        self._input = f"{folder}/input.parquet"
        self._output = storage.location(f"{folder}/scored")
        self._storage, self._options = storage, options
        self._columns = InputColumns(text_pair="text_pair" if pair else None)
        self._fields = list(self._columns.of_task(head.task))
        texts = {name: pa.list_(pa.string()) if name == "choices" else pa.string() for name in self._fields}
        self._schema = pa.schema(_ORIGIN | texts)
        self._rows: list[dict[str, Any]] = []
        self._num_characters = 0
        self._writer: pq.ParquetWriter | None = None
        self._rows_of_parts: dict[str, int] = {}

    def open(self, stack: ExitStack) -> None:
        """Before rows are added. The file is there once the stack is left without an exception."""
        stream = stack.enter_context(self._storage.writing(self._input))
        self._writer = stack.enter_context(pq.ParquetWriter(stream, self._schema))
        stack.callback(self._flush)

    def add(self, line: int, index: int, example: Any) -> None:
        self.num_rows += 1
        texts = example if isinstance(example, dict) else {self._fields[0]: example}
        self._rows.append({"line": line, "index": index, **texts})
        for value in texts.values():
            self._num_characters += len(value) if isinstance(value, str) else sum(map(len, value))
        if len(self._rows) >= _BUFFERED_ROWS or self._num_characters >= _BUFFERED_CHARACTERS:
            self._flush()

    def _flush(self) -> None:
        if self._rows and self._writer is not None:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._num_characters = [], 0

    def score(self, model: Mapping[str, str] | None, max_actors: int, out: TextIO) -> None:
        """Scores the rows that are left. model: digest and location of the checkpoint that the batch began with.

        Raises what stops a scoring job, and CheckpointError for other files than those.
        """
        checkpoint = self.head.checkpoint if model is None else model["location"]

        def inspect(*arguments: Any, **more: Any) -> ModelInfo:
            found = inspect_model(*arguments, **more)
            if model is not None and found.digest != model["digest"]:
                raise CheckpointError(f"{checkpoint}: its files changed after the batch began")
            return found

        options = ScoreOptions(
            columns=self._columns,
            task_options=self._options,
            dtype=self.head.dtype or "",
            min_actors=1,
            max_actors=max_actors,
            num_cpus_per_actor=self.head.num_cpus,
            num_gpus_per_actor=self.head.num_gpus,
            max_tokens_per_batch=self.head.max_tokens_per_batch,
        )
        job = Job(
            task=self.head.task,
            model=checkpoint,
            inputs=[self._storage.location(self._input)],
            output=self._output,
            options=options,
            keep=list(_ORIGIN),
            max_error_share=1.0,  # a request that fails is answered with its error
        )
        run_job(job, load=load_predictor, inspect=inspect, out=out)

    def count_scored(self) -> int:
        """Rows scored so far. Only part files that are new since the last call are read."""
        output = locate(self._output)
        for name in names_in(output):
            if name.startswith(PART_PREFIX) and name not in self._rows_of_parts:
                footer = read_footer(output.child(name))
                self._rows_of_parts[name] = footer.num_rows if footer is not None else 0
        return sum(self._rows_of_parts.values())

    def scored(self) -> Iterator[Row]:
        """The rows that are scored, in the order of the input file."""
        for row in rows_in_order(locate(self._output)):
            yield row["line"], row["index"], record_of(row, self.head.task)


class Groups:
    """The groups of a batch, in the order in which its requests first asked for them. heads: of the server."""

    def __init__(self, storage: Storage, folder: str, heads: Mapping[str, HeadArguments]) -> None:
        self._storage, self._folder, self._heads = storage, folder, heads
        self._groups: dict[str, Group] = {}
        self._models: dict[str, Mapping[str, str] | None] = {}
        self._stack: ExitStack | None = None

    def __iter__(self) -> Iterator[Group]:
        return iter(self._groups.values())

    @property
    def num_rows(self) -> int:
        return sum(group.num_rows for group in self)

    def open(self, stack: ExitStack) -> None:
        """Before rows are added to any of them: `Group.open`."""
        self._stack = stack

    def find(self, head: BatchHead, example: Any, options: Any) -> Group:
        """The group of an input, which is made if there is none yet. Raises ServingError beyond MAX_GROUPS groups."""
        pair = isinstance(example, dict) and "text_pair" in example
        key = json.dumps([head.name, dataclasses.asdict(options), pair], sort_keys=True)
        if key not in self._groups:
            if len(self._groups) == MAX_GROUPS:
                message = (
                    f"parameters: the batch has {MAX_GROUPS} groups of head, parameters and kind of text, the limit"
                )
                raise ServingError("invalid_input", message, param="parameters")
            group = self._make(key, options)
            assert self._stack is not None, "a new group after all requests were read"
            group.open(self._stack)
        return self._groups[key]

    def record(self) -> dict[str, Any]:
        """What `restore` needs, once all rows are added. Reads the checkpoints of the heads that were asked for."""
        asked = {group.name: group.head for group in self}
        self._models = {name: _model(head) for name, head in asked.items()}
        return {"num_rows": {key: group.num_rows for key, group in self._groups.items()}, "models": self._models}

    def restore(self, record: Mapping[str, Any]) -> None:
        """The groups of an earlier job, whose input files are written."""
        self._models = record["models"]
        for key, num_rows in record["num_rows"].items():
            name, options, _ = json.loads(key)
            given = {field: tuple(value) if isinstance(value, list) else value for field, value in options.items()}
            self._make(key, OPTIONS[self._heads[name].task](**given)).num_rows = num_rows

    def score(self, max_actors: int, out: TextIO) -> None:
        """Scores one group after another. What stops one is raised once the others are scored."""
        stopped = None
        for group in self:
            try:
                group.score(self._models[group.name], max_actors, out)
            except Exception as error:
                print(f"{group.name}: {error}", file=out, flush=True)
                stopped = stopped or error
        if stopped is not None:
            raise stopped

    def _make(self, key: str, options: Any) -> Group:
        name, _, pair = json.loads(key)
        folder = f"{self._folder}/{hashlib.sha256(key.encode()).hexdigest()[:16]}"
        self._groups[key] = Group(self._storage, folder, name, self._heads[name], options, pair)
        return self._groups[key]


def _model(head: HeadArguments) -> dict[str, str] | None:
    """Which checkpoint a head has now. None where it cannot be read: scoring its rows then says why."""
    try:
        found = inspect_model(head.task, head.checkpoint)
    except (BigBirdError, OSError):
        return None
    return {"digest": found.digest, "location": found.location or head.checkpoint}
