"""The rows of one unit, read: columns of the declared schema, where each row comes from, and what went wrong.

Rows that cannot be read come with nulls and the reason, so that every row of the listing is present whatever
happens. Does not know which units there are, nor models, tasks or Ray.
"""

import gzip
import io
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.json as pajson
import pyarrow.parquet as pq

from pipelines.scoring.inputs.units import NO_PARTITION, SOURCE_FILE, SOURCE_ROW, Piece, Unit

READ_ERROR = "__read_error"

# A unit may be a thousand tiny files, each a few requests to an object store.
_READ_THREADS = 8


def read_unit(unit: Unit, filesystem: pafs.FileSystem, schema: pa.Schema) -> pa.Table:
    """The rows of a unit: columns of `schema`, `source_file`, `source_row`, and READ_ERROR (null where fine).

    Rows that cannot be read (a damaged page, a line that is no JSON) come with nulls and the reason in
    READ_ERROR, so that every row of the listing is present whatever happens.
    """
    with ThreadPoolExecutor(min(_READ_THREADS, len(unit.pieces))) as pool:
        tables = list(pool.map(lambda piece: _read_piece(piece, filesystem, schema), unit.pieces))
    return pa.concat_tables(tables).combine_chunks()


def _read_piece(piece: Piece, filesystem: pafs.FileSystem, schema: pa.Schema) -> pa.Table:
    rows = piece.stop - piece.start
    reader = _read_parquet if piece.file.is_parquet else _read_json
    try:
        table, errors = reader(piece, filesystem, schema)
    except (OSError, pa.ArrowException, ValueError) as error:
        table = pa.table({f.name: pa.nulls(rows, f.type) for f in schema}, schema=schema)
        # A file or a connection may be there again; the kinds of OSError tell apart what does not matter here.
        kind = "OSError" if isinstance(error, OSError) else type(error).__name__
        errors = pa.array([f"{kind}: {error}"] * rows, pa.string())
    table = table.append_column(SOURCE_FILE, pa.array([piece.file.name] * rows, pa.string()))
    table = table.append_column(SOURCE_ROW, pa.array(range(piece.start, piece.stop), pa.int64()))
    return table.append_column(READ_ERROR, errors)


def json_lines(path: str, filesystem: pafs.FileSystem) -> Iterator[bytes]:
    """Lines that are not blank; compression by suffix."""
    raw = filesystem.open_input_file(path)
    with raw, gzip.open(raw) if path.lower().endswith(".gz") else io.BufferedReader(raw) as stream:
        for line in stream:
            if line.strip():
                yield line


def _complete(table: pa.Table, piece: Piece, schema: pa.Schema) -> pa.Table:
    partition = dict(piece.file.partition)
    columns = []
    for wanted in schema:
        if wanted.name in table.column_names:
            column = table[wanted.name]
            columns.append(column if column.type == wanted.type else column.cast(wanted.type))
        else:
            value = partition.get(wanted.name, NO_PARTITION)
            text = pa.array([None if value == NO_PARTITION else value] * table.num_rows, pa.string())
            columns.append(text.cast(wanted.type))
    return pa.table(columns, schema=schema)


def _read_parquet(piece: Piece, filesystem: pafs.FileSystem, schema: pa.Schema) -> tuple[pa.Table, pa.Array]:
    batches: list[pa.RecordBatch] = []
    with pq.ParquetFile(piece.file.path, filesystem=filesystem, pre_buffer=False) as file:
        stored = file.schema_arrow
        columns = [name for name in schema.names if name in stored.names]
        first = 0
        for index in range(file.num_row_groups):
            rows = file.metadata.row_group(index).num_rows
            low, high = max(piece.start - first, 0), min(piece.stop - first, rows)
            first += rows
            if low >= high:
                continue
            position = 0
            for batch in file.iter_batches(min(rows, 16_384), row_groups=[index], columns=columns):
                begin, end = max(low - position, 0), min(high - position, batch.num_rows)
                position += batch.num_rows
                if begin < end:
                    batches.append(batch.slice(begin, end - begin))
                if position >= high:
                    break
    kept = pa.schema([stored.field(name) for name in columns])
    if not columns:
        table = pa.table({"": pa.nulls(piece.stop - piece.start)})
    else:
        table = pa.Table.from_batches(batches, schema=kept.with_metadata(stored.metadata))
    if table.num_rows != piece.stop - piece.start:
        raise ValueError(f"{piece.file.name} has fewer rows than when it was listed")
    return _complete(table, piece, schema), pa.nulls(table.num_rows, pa.string())


def _read_json(piece: Piece, filesystem: pafs.FileSystem, schema: pa.Schema) -> tuple[pa.Table, pa.Array]:
    lines = []
    for number, line in enumerate(json_lines(piece.file.path, filesystem)):
        if number >= piece.stop:
            break
        if number >= piece.start:
            lines.append(line)
    if len(lines) != piece.stop - piece.start:
        raise ValueError(f"{piece.file.name} has fewer lines than when it was listed")
    stored = pa.schema([f for f in schema if f.name not in dict(piece.file.partition)])
    try:
        return _complete(_parse_lines(lines, stored), piece, schema), pa.nulls(len(lines), pa.string())
    except pa.ArrowException:
        pass  # one line is damaged or of another type: find it
    tables: list[pa.Table] = []
    errors: list[str | None] = []
    for line in lines:
        try:
            json.loads(line)
            tables.append(_parse_lines([line], stored))
            errors.append(None)
        except (ValueError, pa.ArrowException) as error:
            tables.append(pa.table({f.name: pa.nulls(1, f.type) for f in stored}, schema=stored))
            errors.append(f"{type(error).__name__}: {error}")
    return _complete(pa.concat_tables(tables), piece, schema), pa.array(errors, pa.string())


def _parse_lines(lines: Sequence[bytes], schema: pa.Schema) -> pa.Table:
    text = b"".join(line if line.endswith(b"\n") else line + b"\n" for line in lines)
    table = pajson.read_json(
        io.BytesIO(text),
        read_options=pajson.ReadOptions(block_size=len(text) + 1),
        parse_options=pajson.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
    )
    if table.num_rows != len(lines):  # a line with a list of objects, or with none
        raise pa.ArrowInvalid(f"expected one object a line, found {table.num_rows} in {len(lines)}")
    return table.select(schema.names)
