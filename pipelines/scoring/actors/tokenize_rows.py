"""Tokenizing on CPU workers ahead of actors whose time is dear: each row's prepared example travels in a column.

    read -> TokenizeRows (CPU workers) -> ScoreUnit or ScoreRows (actors with GPUs)

A value is one row's prepared examples, one a score, pickled and compressed: offsets of characters are most of it, and
shrink to a fraction. A row for itself, so that a block may be cut anywhere. Null means that tokenizing failed: the
actor, which can find out which row is to blame, does it itself.

Where actors score on CPUs there is no such column: an actor tokenizes one window ahead of its model.
"""

import pickle
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import ray

from pipelines.scoring.inputs.units import PREPARED, SOURCE_FILE, SOURCE_ROW

_ROWS_A_CALL = 1024
_SIZE_BYTES = 8
_ZSTD = pa.Codec("zstd", compression_level=1)


class TokenizeRows:
    """`map_batches` class: a table in, the same table with PREPARED out. Holds predictors without weights.

    stage: a `actors.score_rows.Stage`. watch: the job's `actors.watch` actor, by which a table that killed the
    process that tokenized it is handed on as it is; None where nobody watches.
    """

    def __init__(self, stage: Any, watch: Any = None) -> None:
        self.stage = stage
        self.watch = watch
        self.predictors = stage.predictors(weights=False)

    def __call__(self, table: pa.Table) -> pa.Table:
        prepared: list[bytes | None] = [None] * table.num_rows
        if table.num_rows and not self._killed_one(table):
            rows = self.stage.examples(table)
            prepared = [
                value
                for start in range(0, len(rows), _ROWS_A_CALL)
                for value in self._prepare(rows[start : start + _ROWS_A_CALL])
            ]
            self._finished(table)
        return table.append_column(PREPARED, pa.array(prepared, pa.large_binary()))

    def _prepare(self, rows: Sequence[tuple[Any, ...]]) -> list[bytes | None]:
        try:
            prepared = self.predictors.preprocess(by_score(rows))
            return [pack(of_row) for of_row in zip(*prepared, strict=True)]
        except Exception:  # which row it was, the actor finds out
            return [None] * len(rows)

    def _killed_one(self, table: pa.Table) -> bool:
        return self.watch is not None and ray.get(self.watch.begin.remote(_name(table, self.stage.prefix))).deaths > 0

    def _finished(self, table: pa.Table) -> None:
        if self.watch is not None:
            self.watch.finish.remote(_name(table, self.stage.prefix))


def by_score(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    """The examples of each score, one a row. rows: at least one, each with an example for every score."""
    return [list(of_score) for of_score in zip(*rows, strict=True)]


def prepared_rows(table: pa.Table) -> list[bytes | None]:
    """The values of PREPARED, all null where the table has no such column."""
    if PREPARED not in table.column_names:
        return [None] * table.num_rows
    values: list[bytes | None] = table[PREPARED].to_pylist()
    return values


def pack(prepared: Any) -> bytes:
    """The prepared examples of a row as bytes."""
    content = pickle.dumps(prepared, protocol=pickle.HIGHEST_PROTOCOL)
    compressed: bytes = _ZSTD.compress(content, asbytes=True)
    return len(content).to_bytes(_SIZE_BYTES, "little") + compressed


def unpack(value: bytes) -> Any:
    """The prepared examples that `pack` made bytes of."""
    size = int.from_bytes(value[:_SIZE_BYTES], "little")
    return pickle.loads(_ZSTD.decompress(value[_SIZE_BYTES:], decompressed_size=size))


def _name(table: pa.Table, prefix: str) -> str:
    return f"tokens of {table[prefix + SOURCE_FILE][0].as_py()}/{table[prefix + SOURCE_ROW][0].as_py()}"
