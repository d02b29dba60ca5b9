"""What the files of an input say of the values in them: whether all fit a type, and what Arrow has no type for.

Parquet says it in the statistics of its footers, JSON lines were read through. Read only where types differ.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt

from pipelines.scoring.inputs.json_types import Kind
from pipelines.scoring.inputs.types import EXACT_IN_DOUBLE, ITEM, Path, leaf_paths
from pipelines.scoring.inputs.units import InputFile
from pipelines.scoring.storage import Place

_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


@dataclass(frozen=True, kw_only=True)
class Described:
    """A file and what its columns are.

    schema: the columns that were asked for; names: all. kinds, misfits: of JSON lines only, as `json_lines.JsonFile`
    has them. intervals: columns of a type of Parquet that Arrow lacks.
    """

    file: InputFile
    place: Place
    schema: pa.Schema
    names: tuple[str, ...]
    kinds: Mapping[str, Kind] | None = None
    misfits: frozenset[str] = frozenset()
    intervals: tuple[str, ...] = ()


class Values:
    """The values of described files."""

    def __init__(self, described: Sequence[Described]) -> None:
        self._described = described

    def fit(self, path: Path, wanted: pa.DataType) -> bool:
        """Whether the values at a path, integers or times, are known to be castable without a change."""
        return all(
            self._fits(one, index, leaf, path, wanted)
            for one in self._described
            if path[0] in one.schema.names
            for index, leaf in self._at(one, path)
        )

    def _at(self, one: Described, path: Path) -> Iterator[tuple[int, pa.DataType]]:
        """The leaf at a path: its number among all leaves of the file, and its type."""
        schema = one.schema
        if one.kinds is None:
            with pq.ParquetFile(one.place.path, filesystem=one.place.filesystem) as file:
                schema = file.schema_arrow
        leaves = (leaf for f in schema for leaf in leaf_paths(f.name, f.type))
        return ((index, leaf) for index, (found, leaf) in enumerate(leaves) if found == path)

    def _fits(self, one: Described, index: int, leaf: pa.DataType, path: Path, wanted: pa.DataType) -> bool:
        if pt.is_floating(wanted):
            if not pt.is_integer(leaf):
                return True
            limit = EXACT_IN_DOUBLE
        else:
            if leaf.unit == wanted.unit:
                return True
            limit = (2**63 - 1) // (_PER_SECOND[wanted.unit] // _PER_SECOND[leaf.unit])
        if one.kinds is not None:
            return _kind_at(one.kinds, path).bound <= limit
        metadata = pq.read_metadata(one.place.path, filesystem=one.place.filesystem)
        chunks = (metadata.row_group(number).column(index) for number in range(metadata.num_row_groups))
        return all(_within(chunk.statistics, leaf, limit) for chunk in chunks if chunk.num_values)


def _within(statistics: Any, leaf: pa.DataType, limit: int) -> bool:
    if statistics is None:
        return False
    if not statistics.has_min_max:
        return bool(statistics.has_null_count and statistics.num_values == 0)
    ends = (statistics.min, statistics.max) if pt.is_integer(leaf) else (statistics.min_raw, statistics.max_raw)
    return all(-limit <= end <= limit for end in ends)


def _kind_at(kinds: Mapping[str, Kind], path: Path) -> Kind:
    kind = kinds.get(path[0], Kind())
    for name in path[1:]:
        kind = (kind.item if name == ITEM else kind.fields.get(name)) or Kind()
    return kind
