"""The input of a job: which files, how many rows, and the one schema they are read with.

A path may be a file, a folder (read recursively, Hive partitions become columns), a glob, or a URI that pyarrow
understands (`s3://`, `gs://`, `hdfs://`). Files are Parquet or JSON lines (also compressed: `.jsonl.gz`).

`inputs.units` cuts the rows into units of work, `inputs.reading` reads them. Does not know models, tasks, Ray,
or what is already done.
"""

import codecs
import contextlib
import fnmatch
import io
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.json as pajson
import pyarrow.parquet as pq

from bigbird.errors import InputError
from pipelines.scoring.inputs.reading import json_lines
from pipelines.scoring.inputs.units import NO_PARTITION, PARQUET_SUFFIXES, InputFile
from pipelines.scoring.storage import Place, locate

JSON_SUFFIXES = (".jsonl", ".ndjson", ".json", ".jsonl.gz", ".ndjson.gz", ".json.gz")

_LISTING_THREADS = 32
_JSON_SAMPLE_BYTES = 4 << 20


@dataclass(frozen=True, kw_only=True)
class Listing:
    """All files of an input and the schema they are read with (partition columns included)."""

    filesystem: pafs.FileSystem = field(compare=False)
    files: tuple[InputFile, ...]
    schema: pa.Schema

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)


def list_inputs(paths: Sequence[str], *, read_columns: Sequence[str] | None = None) -> Listing:
    """List the files of `paths` and read their footers (Parquet) or count their lines (JSON lines).

    `read_columns` are the columns whose bytes count when rows are cut into units; None counts all.
    Raises InputError: a path that cannot be read, no file at all, files on different filesystems, a file that is
    neither Parquet nor JSON lines or is damaged, files whose schemas do not fit together.
    """
    filesystem: pafs.FileSystem | None = None
    found: dict[str, tuple[Place, pafs.FileInfo, tuple[tuple[str, str], ...]]] = {}
    for path in paths:
        place = locate(path)
        if filesystem is not None and not filesystem.equals(place.filesystem):
            raise InputError(f"input {path!r} is on another filesystem than {paths[0]!r}; one job reads from one")
        filesystem = filesystem or place.filesystem
        for info, root in _files_below(place, path):
            name = place.name_of(info.path)
            partition = _hive_partition(info.path[len(root) :])
            found.setdefault(info.path, (Place(place.filesystem, info.path, name), info, partition))
    if not found or filesystem is None:
        raise InputError(f"no Parquet or JSON lines file in {', '.join(map(repr, paths))}")
    with ThreadPoolExecutor(_LISTING_THREADS) as pool:
        described = list(pool.map(lambda entry: _describe(entry[0], entry[1], entry[2], read_columns), found.values()))
    described.sort(key=lambda pair: pair[0].name)
    files = tuple(file for file, _ in described)
    schema = _common_schema([(file, schema) for file, schema in described if len(schema) or file.is_parquet])
    return Listing(filesystem=filesystem, files=files, schema=_with_partitions(schema, files))


def _files_below(place: Place, given: str) -> Iterator[tuple[pafs.FileInfo, str]]:
    """Files named by a path, folder or glob, each with the root below which Hive partitions count."""
    filesystem, path = place.filesystem, place.path
    if any(character in path for character in "*?["):
        root = path[: min(path.index(c) for c in "*?[" if c in path)].rpartition("/")[0]
        selector = pafs.FileSelector(root or ".", recursive=True)
        infos = [info for info in _listed(filesystem, selector, given) if _matches(info.path, path)]
        if not infos:
            raise InputError(f"input {given!r} matches no file")
    else:
        try:
            info = filesystem.get_file_info(path)
        except OSError as error:
            raise InputError(f"input {given!r} cannot be read: {error}") from error
        if info.type == pafs.FileType.File:
            if not path.lower().endswith(PARQUET_SUFFIXES + JSON_SUFFIXES):
                raise InputError(f"input {given!r} is neither Parquet nor JSON lines by its name")
            yield info, path.rpartition("/")[0]
            return
        if info.type != pafs.FileType.Directory:
            raise InputError(f"input {given!r} does not exist")
        root = path
        infos = _listed(filesystem, pafs.FileSelector(path, recursive=True), given)
    for info in infos:
        hidden = any(part.startswith((".", "_")) for part in info.path[len(root) :].split("/"))
        if info.is_file and not hidden and info.path.lower().endswith(PARQUET_SUFFIXES + JSON_SUFFIXES):
            yield info, root


def _listed(filesystem: pafs.FileSystem, selector: pafs.FileSelector, given: str) -> list[pafs.FileInfo]:
    try:
        return list(filesystem.get_file_info(selector))
    except OSError as error:
        raise InputError(f"input {given!r} cannot be read: {error}") from error


def _matches(path: str, pattern: str) -> bool:
    """Shell matching by path component, so that `*` stays within one folder and `**` does not."""
    parts, patterns = path.split("/"), pattern.split("/")
    if "**" in patterns:
        return fnmatch.fnmatchcase(path, pattern.replace("**/", "*"))
    return len(parts) == len(patterns) and all(map(fnmatch.fnmatchcase, parts, patterns))


def _hive_partition(below: str) -> tuple[tuple[str, str], ...]:
    keys = (part.partition("=") for part in below.split("/")[:-1] if "=" in part)
    return tuple((key, unquote(value)) for key, _, value in keys)


def _describe(
    place: Place, info: pafs.FileInfo, partition: tuple[tuple[str, str], ...], read_columns: Sequence[str] | None
) -> tuple[InputFile, pa.Schema]:
    groups: list[tuple[int, int]] = []
    try:
        if place.name.lower().endswith(PARQUET_SUFFIXES):
            metadata = pq.read_metadata(place.path, filesystem=place.filesystem)
            schema = metadata.schema.to_arrow_schema()
            for index in range(metadata.num_row_groups):
                group = metadata.row_group(index)
                chunks = (group.column(column) for column in range(group.num_columns))
                size = sum(
                    chunk.total_uncompressed_size
                    for chunk in chunks
                    if read_columns is None or chunk.path_in_schema.partition(".")[0] in read_columns
                )
                groups.append((group.num_rows, size))
        else:
            schema, groups = _describe_json(place)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"input {place.name!r} cannot be read: {error}") from error
    mtime_ns = info.mtime_ns or 0
    file = InputFile(
        name=place.name,
        path=place.path,
        size=info.size,
        mtime_ns=mtime_ns,
        groups=tuple(groups),
        partition=partition,
    )
    return file, schema.remove_metadata()


def _common_schema(schemas: Sequence[tuple[InputFile, pa.Schema]]) -> pa.Schema:
    """One schema for all files: same columns, types promoted where that loses nothing (int32 and int64).

    JSON lines say nothing where they have nothing, so a column may be absent from a whole file of them.
    """
    if not schemas:
        return pa.schema([])
    first, merged = schemas[0]
    for file, schema in schemas[1:]:
        if schema.equals(merged):
            continue
        differing = set(merged.names) ^ set(schema.names)
        if differing and (first.is_parquet or file.is_parquet):
            raise InputError(
                f"input {file.name!r} and {first.name!r} differ in columns {', '.join(map(repr, sorted(differing)))}"
            )
        try:
            merged = pa.unify_schemas([merged, schema], promote_options="permissive")
        except pa.ArrowException as error:
            raise InputError(f"input {file.name!r} does not fit {first.name!r}: {error}") from error
    return merged


def _with_partitions(schema: pa.Schema, files: Sequence[InputFile]) -> pa.Schema:
    """Add Hive partition columns: int64 where every value is a whole number, else string."""
    values: dict[str, list[str]] = {}
    for file in files:
        for key, value in file.partition:
            values.setdefault(key, []).extend([value] if value != NO_PARTITION else [])
    for key, texts in values.items():
        if key not in schema.names:
            whole = all(text.lstrip("-").isascii() and text.lstrip("-").isdigit() for text in texts)
            schema = schema.append(pa.field(key, pa.int64() if whole else pa.string()))
    return schema


def _describe_json(place: Place) -> tuple[pa.Schema, list[tuple[int, int]]]:
    rows = size = 0
    sample: list[bytes] = []
    for line in json_lines(place.path, place.filesystem):
        if size < _JSON_SAMPLE_BYTES:
            sample.append(line)
        rows += 1
        size += len(line)
    if not sample:
        return pa.schema([]), []
    if not any(map(_is_object, sample)):
        raise InputError(f"input {place.name!r} is not JSON lines: expected one object a line, found none")
    try:
        schema = _json_schema(sample)
    except pa.ArrowException:
        schema = _json_schema_of_most(sample)
    # What looks like a time is kept as it was written: the next line may not look like one.
    fields = (pa.field(f.name, pa.string()) if pa.types.is_timestamp(f.type) else f for f in schema)
    return pa.schema(list(fields)), [(rows, size)]


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line.removeprefix(codecs.BOM_UTF8)), dict)
    except ValueError:
        return False


def _json_schema(lines: Sequence[bytes]) -> pa.Schema:
    text = b"".join(line if line.endswith(b"\n") else line + b"\n" for line in lines)
    return pajson.read_json(io.BytesIO(text), read_options=pajson.ReadOptions(block_size=len(text) + 1)).schema


def _json_schema_of_most(lines: Sequence[bytes]) -> pa.Schema:
    """The schema without the lines that are damaged or of another type than those before them."""
    schema = pa.schema([])
    for line in filter(_is_object, lines):
        with contextlib.suppress(pa.ArrowException):
            schema = pa.unify_schemas([schema, _json_schema([line])], promote_options="permissive")
    return schema
