"""Whether the ids of an input are all there and all different: tasks over the whole cluster, one here where few.

    read     a task for some millions of rows: eight bytes of each id's hash, cut into parts by the hash
    compare  a task a part: hashes that are there twice
    name     only where there are some: the tasks of the first step again, for the ids themselves and where they stand

No process holds more than the hashes of its own rows or of its own part.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.types as pt
import ray

from bigbird.errors import InputError
from pipelines.ray_cluster import join_ray
from pipelines.scoring.inputs.listing import Listing
from pipelines.scoring.inputs.reading import read_unit
from pipelines.scoring.inputs.units import SOURCE_FILE, SOURCE_ROW, Unit, cut_units
from pipelines.scoring.inputs.unreadable import UnreadableInputError

_ROWS_A_TASK = 2_000_000
_ROWS_A_PART = 16_000_000
_READ_BYTES = 32 << 20
# Of ids that are there in masses, so many are named to the driver: it needs one.
_MOST_SUSPECTS = 1000


def check_ids(listing: Listing, id_column: str) -> None:
    """Raises InputError naming an id that is null, nan or there twice, and for a column whose values are no ids, as
    lists are none. Reads that column of every file.

    Joins Ray where there are more rows than one task reads.
    """
    schema = pa.schema([find_id_column(listing.schema, id_column)])
    tasks = [(units, listing.filesystem, schema) for units in _shares(cut_units(listing.files, _READ_BYTES))]
    if not tasks:
        return
    num_parts = math.ceil(listing.rows / _ROWS_A_PART)
    here = len(tasks) == 1  # sooner looked at than sent away
    if not here:
        join_ray()

    def call(function: Callable[..., Any], num_returns: int = 1) -> Callable[..., Any]:
        if here:
            return function
        how: dict[str, Any] = {"max_retries": 3, "retry_exceptions": [UnreadableInputError]}
        task: Any = ray.remote(num_returns=num_returns, scheduling_strategy="SPREAD", **how)(function)
        return task.remote  # type: ignore[no-any-return]

    def get(answers: list[Any]) -> list[Any]:
        return answers if here else ray.get(answers)

    answers = [call(_hashes, 1 + num_parts)(*task, num_parts) for task in tasks]
    for null in get([answer[0] for answer in answers]):
        if null is not None:
            raise InputError(f"id column {id_column!r} is {null}")
    parts = [call(_repeated)(*(answer[1 + part] for answer in answers)) for part in range(num_parts)]
    del answers
    suspects = np.concatenate(get(parts))[:_MOST_SUSPECTS]
    if not len(suspects):
        return
    seen: dict[Any, str] = {}
    for places in get([call(_places)(*task, suspects) for task in tasks]):
        for value, place in places:
            if value in seen:
                shown = repr(value.decode(errors="backslashreplace") if isinstance(value, bytes) else value)
                raise InputError(f"id {shown} occurs twice: {seen[value]} and {place}")
            seen[value] = place


def find_id_column(schema: pa.Schema, id_column: str) -> pa.Field:
    """The column of the ids. Raises InputError where there is none, and for a column whose values are no ids."""
    if id_column not in schema.names:
        raise InputError(f"id column {id_column!r} is not in the input; its columns are {', '.join(schema.names)}")
    column = schema.field(id_column)
    if pt.is_nested(_storage(column.type)):
        raise InputError(f"id column {id_column!r} has type {column.type}; expected texts, numbers or times")
    return column


def _shares(units: Sequence[Unit]) -> list[list[Unit]]:
    """The units of each task, in order."""
    shares: list[list[Unit]] = []
    rows = _ROWS_A_TASK
    for unit in units:
        if rows + unit.rows > _ROWS_A_TASK:
            shares.append([])
            rows = 0
        shares[-1].append(unit.without_groups)
        rows += unit.rows
    return shares


def _hashes(units: Sequence[Unit], filesystem: pafs.FileSystem, schema: pa.Schema, num_parts: int) -> list[Any]:
    """That an id is null or nan, and where (None: none is); and the hashes of ids, (ids,) of uint64 for each part."""
    found = [np.empty(0, np.uint64)]
    for unit in units:
        table = read_unit(unit, filesystem, schema)
        ids = _comparable(table.column(0))
        missing = ids.is_null(nan_is_null=True).to_numpy()
        if missing.any():
            row = int(missing.argmax())
            what = "nan" if ids[row].is_valid else "null"
            return [f"{what} in {_place(table, row)}", *([found[0]] * num_parts)]
        found.append(_hash(ids))
    hashes = np.concatenate(found)
    part = hashes % np.uint64(num_parts)
    return [None, *(hashes[part == number] for number in range(num_parts))]


def _repeated(*hashes: np.ndarray) -> np.ndarray:
    """What is there more than once."""
    values, counts = np.unique(np.concatenate(hashes), return_counts=True)
    return values[counts > 1][:_MOST_SUSPECTS]


def _places(
    units: Sequence[Unit], filesystem: pafs.FileSystem, schema: pa.Schema, suspects: np.ndarray
) -> list[tuple[Any, str]]:
    """Ids with a hash among `suspects` and where they stand: of each the first two, since others say no more."""
    places: dict[Any, list[str]] = {}
    for unit in units:
        table = read_unit(unit, filesystem, schema)
        ids = _comparable(table.column(0))
        for row in map(int, np.flatnonzero(np.isin(_hash(ids), suspects))):
            known = places.setdefault(ids[row].as_py(), [])
            if len(known) < 2:
                known.append(_place(table, row))
    return [(value, place) for value, known in places.items() for place in known]


def _place(table: pa.Table, row: int) -> str:
    return f"row {table[SOURCE_ROW][row].as_py()} of {table[SOURCE_FILE][row].as_py()!r}"


def _comparable(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The values of a column of ids as types of which Python's values differ where these do: times as numbers, which
    Python has to the microsecond only, and texts as bytes, which may be no UTF-8."""
    kind = _storage(column.type)
    kind = kind.value_type if pt.is_dictionary(kind) else kind
    column = column.cast(kind)
    if pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind):
        return column.cast(pa.large_string()).cast(pa.large_binary())
    if pt.is_temporal(kind):
        return column.cast(pa.int32() if kind.bit_width == 32 else pa.int64())
    return column


def _storage(kind: pa.DataType) -> pa.DataType:
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _hash(column: pa.ChunkedArray) -> np.ndarray:
    from pandas.util import hash_array  # ray[data] brings pandas; only this check needs it

    hashes: np.ndarray = hash_array(np.asarray(column.to_pylist(), dtype=object), categorize=False)
    return hashes
