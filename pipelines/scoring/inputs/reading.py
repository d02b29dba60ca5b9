"""The rows of one unit, read: columns of the declared schema, where each row comes from, and what went wrong.

Rows that cannot be read come with nulls and the reason, so that every row of the listing is present whatever
happens. Does not know which units there are, nor models, tasks or Ray.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from pipelines.scoring.inputs.json_lines import read_json
from pipelines.scoring.inputs.types import cast_exactly
from pipelines.scoring.inputs.units import NO_PARTITION, READ_ERROR, SOURCE_FILE, SOURCE_ROW, Piece, Unit
from pipelines.scoring.inputs.unreadable import require_readable, require_unchanged

# A unit may be a thousand tiny files, each a few requests to an object store.
_READ_THREADS = 8
# A row group may be larger than memory, and a row be a book: pages are streamed, so many bytes of rows at a time.
_BATCH_BYTES = 8 << 20
_BATCH_ROWS = 16_384
_BUFFER_BYTES = 1 << 20
_WHOLE_BYTES = 32 << 20


def open_parquet(path: str, filesystem: pafs.FileSystem, metadata: pq.FileMetaData | None = None) -> pq.ParquetFile:
    """A file whose columns are fetched at once where they are small, and streamed in buffers where they are not.

    Times of the old INT96 kind are read in microseconds, as Spark and duckdb do: nanoseconds end in the year 2262.
    """
    options = {"filesystem": filesystem, "coerce_int96_timestamp_unit": "us"}
    if metadata is None:
        return pq.ParquetFile(path, pre_buffer=False, **options)
    largest = max((metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)), default=0)
    small = largest <= _WHOLE_BYTES
    return pq.ParquetFile(
        path, metadata=metadata, pre_buffer=small, buffer_size=0 if small else _BUFFER_BYTES, **options
    )


def read_unit(unit: Unit, filesystem: pafs.FileSystem, schema: pa.Schema, prefix: str = "") -> pa.Table:
    """The rows of a unit: columns of `schema`, `source_file`, `source_row`, and READ_ERROR (null where fine).

    prefix: of the names of the origin columns.

    Rows that are damaged (a page that does not decompress, a line that is no JSON) come with nulls and the reason in
    READ_ERROR, so that every row of the listing is present. Raises UnreadableInputError where the storage does not
    give a file, ChangedInputError for a file that is not the listed one any more.
    """
    with ThreadPoolExecutor(min(_READ_THREADS, len(unit.pieces))) as pool:
        tables = list(pool.map(lambda piece: _read_piece(piece, filesystem, schema, prefix), unit.pieces))
    return pa.concat_tables(tables)  # in chunks: one of a column may not hold more than 2 GiB


def _read_piece(piece: Piece, filesystem: pafs.FileSystem, schema: pa.Schema, prefix: str) -> pa.Table:
    rows = piece.stop - piece.start
    reader = _read_parquet if piece.file.is_parquet else _read_json
    try:
        table, errors = reader(piece, filesystem, schema)
    except (OSError, pa.ArrowException, ValueError) as error:
        require_readable(piece.file, filesystem)  # so the data is damaged
        table = pa.table({f.name: pa.nulls(rows, f.type) for f in schema}, schema=schema)
        errors = pa.array([f"{type(error).__name__}: {error}"] * rows, pa.string())
    require_unchanged(piece.file, filesystem)
    table = table.append_column(prefix + SOURCE_FILE, pa.array([piece.file.name] * rows, pa.string()))
    table = table.append_column(prefix + SOURCE_ROW, pa.array(range(piece.start, piece.stop), pa.int64()))
    return table.append_column(READ_ERROR, errors)


def _complete(table: pa.Table, piece: Piece, schema: pa.Schema) -> pa.Table:
    """The columns of `schema`: cast to the type that holds those of all files, of a partition, or null."""
    partition = dict(piece.file.partition)
    stored = dict(zip(table.column_names, table.columns, strict=True))
    columns = []
    for wanted in schema:
        if wanted.name in stored:
            columns.append(cast_exactly(stored[wanted.name], wanted.type))
        elif partition.get(wanted.name, NO_PARTITION) == NO_PARTITION:
            columns.append(pa.nulls(table.num_rows, wanted.type))
        else:
            text = pa.array([partition[wanted.name]] * table.num_rows, pa.string())
            columns.append(text.cast(wanted.type))
    return pa.table(columns, schema=schema)


def _read_parquet(piece: Piece, filesystem: pafs.FileSystem, schema: pa.Schema) -> tuple[pa.Table, pa.Array]:
    with open_parquet(piece.file.path, filesystem) as listed:
        metadata, stored = listed.metadata, set(listed.schema_arrow.names)
    columns = [name for name in schema.names if name in stored]
    rows = piece.stop - piece.start
    if not columns:
        table = pa.table({"": pa.nulls(rows)})
    else:
        with open_parquet(piece.file.path, filesystem, metadata) as file:
            table = pa.Table.from_batches(_batches(file, columns, piece))
    if table.num_rows != rows:
        raise ValueError(f"{piece.file.name} has fewer rows than when it was listed")
    return _complete(table, piece, schema), pa.nulls(rows, pa.string())


def _batches(file: pq.ParquetFile, columns: list[str], piece: Piece) -> Iterator[pa.RecordBatch]:
    first = 0
    for index in range(file.num_row_groups):
        group = file.metadata.row_group(index)
        rows = group.num_rows
        low, high = max(piece.start - first, 0), min(piece.stop - first, rows)
        first += rows
        if low >= high:
            continue
        position = 0
        fitting = max(1, rows * _BATCH_BYTES // max(group.total_byte_size, 1))
        for batch in file.iter_batches(min(rows, fitting, _BATCH_ROWS), row_groups=[index], columns=columns):
            begin, end = max(low - position, 0), min(high - position, batch.num_rows)
            position += batch.num_rows
            if begin < end:
                yield batch.slice(begin, end - begin)
            if position >= high:
                break


def _read_json(piece: Piece, filesystem: pafs.FileSystem, schema: pa.Schema) -> tuple[pa.Table, pa.Array]:
    partition = dict(piece.file.partition)
    table, errors = read_json(piece, filesystem, pa.schema([f for f in schema if f.name not in partition]))
    return _complete(table, piece, schema), errors
