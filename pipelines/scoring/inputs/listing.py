"""The input of a job: which files, how many rows, and the one schema they are read with.

A column has one type in all files, which holds the values of each exactly (`inputs.types`), or the input is refused.
Columns that some files lack are null there.

`inputs.paths` finds the files, `inputs.units` cuts the rows into units of work, `inputs.reading` reads them. Does
not know models, tasks, Ray, or what is already done.
"""

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.types as pt

from bigbird.errors import InputError
from pipelines.scoring.inputs.file_metadata import common_metadata
from pipelines.scoring.inputs.json_lines import describe_json
from pipelines.scoring.inputs.json_types import Kind, merge
from pipelines.scoring.inputs.paths import Partition, find_files, said_of
from pipelines.scoring.inputs.reading import open_parquet
from pipelines.scoring.inputs.types import common_type
from pipelines.scoring.inputs.units import NO_PARTITION, InputFile
from pipelines.scoring.inputs.values import Described, Values
from pipelines.scoring.storage import Place

NOTHING_READ: Mapping[str, str] = {}

_LISTING_THREADS = 32
_SAY_AFTER_S = 5.0
# A unit of scoring holds as much text as it should, and of what is only kept not more than so many times that.
_KEPT_PER_READ = 8
_MAX_NOTES = 10


@dataclass(frozen=True, kw_only=True)
class Listing:
    """All files of an input and the schema they are read with.

    schema: the columns that were asked for, partitions included, and the metadata that the files share. names: all
    columns of the files. notes: what a person should know of how they are read, a line each.
    """

    filesystem: pafs.FileSystem = field(compare=False)
    files: tuple[InputFile, ...]
    schema: pa.Schema
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)


def list_inputs(
    paths: Sequence[str],
    *,
    read: Mapping[str, str] = NOTHING_READ,
    keep: Sequence[str] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Listing:
    """List the files of `paths` and read their footers (Parquet) or all of them (JSON lines).

    read: the columns that a task reads, by what they are to it (`schemas.InputColumns`; `doc.body` reaches into a
    struct); every file has them. keep: those that are kept beside, None for all; of other columns nothing matters.
    say: gets a line now and then where listing takes long.

    Raises InputError: a path that cannot be read, no file at all, files on different filesystems, a file that is
    neither Parquet nor JSON lines or is damaged, a column that is there twice, one that is missing where a task reads
    it, one of which no type holds the values of all files.
    """
    found = find_files(paths)
    reading = {top for name in read.values() for top in (name, name.partition(".")[0])}
    wanted = None if keep is None else reading | set(keep)
    entries = sorted(found.files.values(), key=lambda entry: entry[0].name)
    described: list[Described] = []
    began = said = time.monotonic()
    with ThreadPoolExecutor(_LISTING_THREADS) as pool:
        for one in pool.map(lambda entry: _describe(entry, wanted, reading, read), entries):
            described.append(one)
            if time.monotonic() - said > _SAY_AFTER_S:
                said = time.monotonic()
                say(f"listing: {len(described):,} of {len(entries):,} files in {said - began:.0f} s")
    described = _without_misfits(described)
    fields, notes = _common_fields(described)
    fields |= _partition_fields(described, fields, wanted)
    names = tuple(dict.fromkeys([*(name for one in described for name in one.names), *fields]))
    _require(read.values(), described, names)
    metadata = common_metadata([one.schema.metadata or {} for one in described if one.kinds is None])
    unread = said_of(found.skipped)
    return Listing(
        filesystem=found.filesystem,
        files=tuple(one.file for one in described),
        schema=pa.schema([fields[name] for name in names if name in fields], metadata=metadata),
        names=names,
        notes=(*notes, *([unread.removeprefix("; ")] if unread else [])),
    )


def _describe(
    entry: tuple[Place, pafs.FileInfo, Partition], wanted: set[str] | None, reading: set[str], read: Mapping[str, str]
) -> Described:
    place, info, partition = entry
    file = InputFile(
        name=place.name,
        path=place.path,
        size=info.size,
        mtime_ns=info.mtime_ns or 0,
        groups=(),
        partition=partition,
    )
    try:
        if file.is_parquet:
            return _describe_parquet(file, place, wanted, reading)
        return _describe_json(file, place, wanted, read)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"input {place.name!r} cannot be read: {error}") from error


def _describe_parquet(file: InputFile, place: Place, wanted: set[str] | None, reading: set[str]) -> Described:
    with open_parquet(place.path, place.filesystem) as opened:
        schema, columns = opened.schema_arrow, opened.schema
        groups = _groups(opened.metadata, wanted, reading)
    intervals: tuple[str, ...] = ()
    if pa.binary(12) in schema.types:
        stored = map(columns.column, range(len(columns)))
        intervals = tuple(column.path for column in stored if column.converted_type == "INTERVAL")
    kept = pa.schema([f for f in schema if wanted is None or f.name in wanted], metadata=schema.metadata)
    doubles = sorted(name for name in set(kept.names) if len(kept.get_all_field_indices(name)) > 1)
    if doubles:
        raise InputError(f"input {place.name!r} has column {doubles[0]!r} twice; leave it out with --columns")
    file = replace(file, groups=tuple(groups))
    return Described(file=file, place=place, schema=kept, names=tuple(schema.names), intervals=intervals)


def _describe_json(file: InputFile, place: Place, wanted: set[str] | None, read: Mapping[str, str]) -> Described:
    stored = describe_json(place.path, place.filesystem, wanted, read)
    if stored.groups and not stored.objects:
        raise InputError(f"input {place.name!r} is not JSON lines: expected one object a line, found none")
    kinds = {name: kind for name, kind in stored.kinds.items() if name not in dict(file.partition)}
    schema = pa.schema([(name, kind.arrow()) for name, kind in kinds.items() if wanted is None or name in wanted])
    file = replace(file, groups=tuple(stored.groups), offsets=tuple(stored.offsets))
    return Described(
        file=file, place=place, schema=schema, names=tuple(kinds), kinds=kinds, misfits=frozenset(stored.misfits)
    )


def _without_misfits(described: Sequence[Described]) -> list[Described]:
    """A file of which no row has what a task takes has no say in the type of the column, if another file has some: its
    rows are errors, and those of others are not."""
    fitting = {f.name for one in described for f in one.schema if f.name not in one.misfits and not pt.is_null(f.type)}
    left = []
    for one in described:
        if without := one.misfits & fitting:
            kinds = {name: Kind() if name in without else kind for name, kind in (one.kinds or {}).items()}
            schema = pa.schema([f.with_type(pa.null()) if f.name in without else f for f in one.schema])
            one = replace(one, schema=schema, kinds=kinds)
        left.append(one)
    return left


def _groups(metadata: Any, wanted: set[str] | None, reading: set[str]) -> list[tuple[int, int]]:
    groups = []
    roots = [metadata.schema.column(index).path.partition(".")[0] for index in range(metadata.num_columns)]
    kept = [index for index, root in enumerate(roots) if wanted is None or root in wanted]
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        sizes = {index: group.column(index).total_uncompressed_size for index in kept}
        text = sum(size for index, size in sizes.items() if not reading or roots[index] in reading)
        groups.append((group.num_rows, max(text, sum(sizes.values()) // _KEPT_PER_READ)))
    return groups


def _common_fields(described: Sequence[Described]) -> tuple[dict[str, pa.Field], list[str]]:
    """One field for every column of the files, and a note on each whose type is not the same in all of them."""
    values = Values(described)
    fields: dict[str, pa.Field] = {}
    notes = []
    differing: dict[tuple[bool, bytes], Described] = {}
    for one in [*_json_files(described), *(one for one in described if one.kinds is None)]:
        empty = one.kinds is None and not one.file.rows
        differing.setdefault((empty, one.schema.remove_metadata().serialize().to_pybytes()), one)
    first_of: dict[str, Described] = {}
    changed: dict[str, list[str]] = {}
    for (empty, _), one in sorted(differing.items(), key=lambda entry: entry[0][0]):
        for column in one.schema:
            name, known = column.name, fields.get(column.name)
            if known is None:
                fields[name], first_of[name] = pa.field(name, column.type), one
                continue
            if empty or known.type.equals(column.type):  # where there is no row, no value needs to be held
                continue
            kind = common_type(known.type, column.type, (name,), values.fit)
            if kind is None:
                raise InputError(
                    f"column {name!r} is {_short(first_of[name].schema.field(name).type)} in "
                    f"{first_of[name].file.name!r} and {_short(column.type)} in {one.file.name!r}, and no type holds "
                    "the values of both exactly: leave it out with --columns, or write these files alike"
                )
            fields[name] = pa.field(name, kind)
            changed.setdefault(name, [_short(known.type)]).append(_short(column.type))
    for name, column in fields.items():
        if any(one.kinds is not None for one in described):
            fields[name] = pa.field(name, _without_null(column.type))
        if name in changed:
            kinds = ", ".join(dict.fromkeys(changed[name]))
            notes.append(f"column {name!r} differs between files ({kinds}): kept as {_short(fields[name].type)}")
    for name in sorted({name for one in described for name in one.intervals if name in fields}):
        notes.append(f"column {name!r} holds intervals of Parquet: kept as their 12 bytes, as type {fields[name].type}")
    return fields, notes[:_MAX_NOTES] + ([f"and {len(notes) - _MAX_NOTES} more"] if len(notes) > _MAX_NOTES else [])


def _json_files(described: Sequence[Described]) -> list[Described]:
    """All files of JSON lines as one: a number in one and text in another are as if they stood in one file."""
    files = [one for one in described if one.kinds is not None and one.kinds]
    if not files:
        return []
    kinds: dict[str, Kind] = {}
    for one in files:
        for name in one.schema.names:
            kind = (one.kinds or {})[name]
            kinds[name] = merge(kinds[name], kind) if name in kinds else kind
    schema = pa.schema([(name, kind.arrow()) for name, kind in kinds.items()])
    return [Described(file=files[0].file, place=files[0].place, schema=schema, names=tuple(kinds), kinds=kinds)]


def _without_null(kind: pa.DataType) -> pa.DataType:
    """JSON's columns of which nothing is known, as strings: not every reader knows the type null."""
    if pt.is_null(kind):
        return pa.string()
    if pt.is_list(kind):
        return pa.list_(_without_null(kind.value_type))
    if pt.is_struct(kind):
        return pa.struct([pa.field(f.name, _without_null(f.type)) for f in kind])
    return kind


def _partition_fields(
    described: Sequence[Described], fields: dict[str, pa.Field], wanted: set[str] | None
) -> dict[str, pa.Field]:
    """Hive partition columns: int64 where every value survives it, `02134` does not; else string."""
    values: dict[str, set[str]] = {}
    for one in described:
        for key, value in one.file.partition:
            values.setdefault(sys.intern(key), set()).update([value] if value != NO_PARTITION else [])
    found = {}
    stored = {name for one in described for name in one.names}
    for key, texts in values.items():
        if key not in fields and key not in stored and (wanted is None or key in wanted):
            whole = bool(texts) and all(map(_survives_int64, texts))
            found[key] = pa.field(key, pa.int64() if whole else pa.string())
    return found


def _survives_int64(text: str) -> bool:
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 20):
        return False
    return str(int(text)) == text and -(2**63) <= int(text) < 2**63


def _require(read: Iterable[str], described: Sequence[Described], names: Sequence[str]) -> None:
    """Raises InputError for a column that a task reads and a file of Parquet lacks: all its rows would be errors."""
    for name in read:
        top = name if name in names else name.partition(".")[0]
        if name in names and name.partition(".")[0] in names and "." in name:
            raise InputError(f"column {name!r} may be a column or a field of {name.partition('.')[0]!r}: rename one")
        for one in described:
            lacks = top in names and top not in (*one.names, *dict(one.file.partition))
            if lacks and one.kinds is None and one.file.rows:
                raise InputError(f"input {one.file.name!r} has no column {top!r}, which the task reads")


def _short(kind: pa.DataType) -> str:
    text = str(kind)
    return text if len(text) <= 120 else f"{text[:120]}..."
