"""JSON lines: where they lie in a file, what they hold, and the rows of a piece.

A file is read through once, when it is listed: that gives its types (`inputs.json_types`) from every line, and the
byte at which every megabyte of lines begins, so that no piece reads what is before it. Blank lines are no rows.
"""

import codecs
import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from pipelines.scoring.inputs.json_types import LIST, NOTHING, OBJECT, STRING, Kind, kind_of, merge, parse, to_array
from pipelines.scoring.inputs.units import Piece

_CODECS = {".gz": "gzip", ".zst": "zstd"}
_BUFFER_BYTES = 4 << 20  # an object store takes as long for a kilobyte
_LOCAL_BUFFER_BYTES = 256 << 10
_GROUP_BYTES = 1 << 20


@dataclass
class JsonFile:
    """What a file of JSON lines holds. `groups` and `offsets` are those of `units.InputFile`. objects: lines that are
    some. misfits: columns that a task reads and of which no row has what it takes."""

    groups: list[tuple[int, int]] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    kinds: dict[str, Kind] = field(default_factory=dict)
    objects: int = 0
    misfits: set[str] = field(default_factory=set)


def json_lines(path: str, filesystem: pafs.FileSystem, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, each with the byte it begins at, from one that begins at `offset` on.

    Compression is known by the suffix; offsets are of the content.
    """
    codec = next((codec for suffix, codec in _CODECS.items() if path.lower().endswith(suffix)), None)
    size = _LOCAL_BUFFER_BYTES if filesystem.type_name == "local" else _BUFFER_BYTES
    opened = filesystem.open_input_stream(path, compression=codec) if codec else filesystem.open_input_file(path)
    with opened as raw, io.BufferedReader(raw, size) as stream:
        if codec is None:
            stream.seek(offset)
        else:
            left = offset
            while left:
                left -= len(stream.read(min(left, size))) or left
        for line in stream:
            if line.strip():
                yield offset, line
            offset += len(line)


def describe_json(
    path: str, filesystem: pafs.FileSystem, wanted: Collection[str] | None, read: Mapping[str, str]
) -> JsonFile:
    """Read a file through once. Only columns in `wanted` get a kind, all where it is None.

    read: the columns that a task reads, by what they are to it: strings, and lists of them for `choices`. A row that
    has something else there has no say in the type of the column.
    """
    found = JsonFile()
    needs = [(path, role) for role, name in read.items() for path in ([name], name.split("."))]
    misfits: dict[str, Kind] = {}
    rows = size = 0
    for offset, line in json_lines(path, filesystem):
        if not found.offsets or size >= _GROUP_BYTES:
            if found.offsets:
                found.groups.append((rows, size))
            found.offsets.append(offset)
            rows = size = 0
        rows += 1
        size += len(line)
        try:
            row = parse(line.removeprefix(codecs.BOM_UTF8))
        except ValueError:
            continue
        found.objects += 1
        for name, value in row.items():
            kind = kind_of(value) if wanted is None or name in wanted else Kind()
            fits = all(_fits(kind, path[1:], role) for path, role in needs if path[0] == name)
            kinds, other = (found.kinds, misfits) if fits else (misfits, found.kinds)
            other.setdefault(name, Kind())
            kinds[name] = merge(kinds[name], kind) if name in kinds else kind
    if rows:
        found.groups.append((rows, size))
    for name, kind in misfits.items():
        if found.kinds[name].what == NOTHING:
            found.kinds[name] = kind
            found.misfits.add(name)
    return found


def _fits(kind: Kind, path: Sequence[str], role: str) -> bool:
    for name in path:
        if kind.what not in (OBJECT, NOTHING):
            return False
        kind = kind.fields.get(name, Kind())
    if role == "choices" and kind.what == LIST:
        kind = kind.item or Kind()
        return kind.what in (STRING, NOTHING)
    return kind.what == NOTHING or (kind.what == STRING and role != "choices")


def read_json(piece: Piece, filesystem: pafs.FileSystem, schema: pa.Schema) -> tuple[pa.Table, pa.Array]:
    """The rows of a piece, columns of `schema`, and for each row what is wrong with it, null where nothing is."""
    number, offset = piece.near
    values: dict[str, list[Any]] = {name: [] for name in schema.names}
    errors: list[str | None] = []
    for _, line in json_lines(piece.file.path, filesystem, offset):
        if number >= piece.stop:
            break
        if number >= piece.start:
            try:
                row, error = parse(line.removeprefix(codecs.BOM_UTF8)), None
            except ValueError as damage:
                row, error = {}, f"{type(damage).__name__}: {damage}"
            errors.append(error)
            for name, column in values.items():
                column.append(row.get(name))
        number += 1
    if len(errors) != piece.stop - piece.start:
        raise ValueError(f"{piece.file.name} has fewer lines than when it was listed")
    columns = [_column(values[field.name], field, errors) for field in schema]
    return pa.table(columns, schema=schema), pa.array(errors, pa.string())


def _column(values: list[Any], wanted: pa.Field, errors: list[str | None]) -> pa.Array:
    try:
        return to_array(values, wanted.type)
    except (ValueError, TypeError, pa.ArrowException):
        pass  # of some rows, which
    kept = []
    for row, value in enumerate(values):
        try:
            to_array([value], wanted.type)
            kept.append(value)
        except (ValueError, TypeError, pa.ArrowException) as error:
            errors[row] = errors[row] or f"{type(error).__name__}: {wanted.name}: {error}"
            kept.append(None)
    return to_array(kept, wanted.type)
