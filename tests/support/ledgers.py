"""An output directory as a job opens it, and files as an actor writes them, without Ray."""

import pyarrow as pa

from pipelines.scoring.inputs.listing import list_inputs
from pipelines.scoring.inputs.reading import read_unit
from pipelines.scoring.inputs.units import SOURCE_FILE, SOURCE_ROW
from pipelines.scoring.ledger.ledger import open_output
from pipelines.scoring.ledger.parts import Footer, part_name, write_part
from pipelines.scoring.ledger.ranges import ranges_of
from pipelines.scoring.schemas import ERROR_TYPE, ORIGIN_FIELDS
from pipelines.scoring.storage import locate

FINGERPRINT = {"task": "fill-mask", "model": "abc", "dtype": "float32"}
SCHEMA = pa.schema([("id", pa.int64()), pa.field("error", ERROR_TYPE), *ORIGIN_FIELDS])


def begin(corpus, output, *, fingerprint=FINGERPRINT, unit_bytes=200, overwrite=False):
    listing = list_inputs([str(corpus)])
    ledger = open_output(
        locate(str(output)),
        fingerprint=fingerprint,
        listing=listing,
        schema=SCHEMA,
        unit_bytes=unit_bytes,
        overwrite=overwrite,
    )
    return ledger, listing


def write(ledger, listing, unit, failing=(), kind="OutOfMemoryError"):
    """Stands in for the actor: the unit's rows with an error in those of `failing`."""
    rows = read_unit(unit, listing.filesystem, listing.schema)
    errors = [
        {"type": kind, "message": "", "retryable": kind == "OutOfMemoryError"} if row in failing else None
        for row in rows["id"].to_pylist()
    ]
    table = rows.append_column("error", pa.array(errors, ERROR_TYPE)).select(SCHEMA.names)
    ranges = tuple(ranges_of(table[SOURCE_FILE], table[SOURCE_ROW]))
    name = part_name(ledger.run, ranges)
    retryable = sum(bool(error and error["retryable"]) for error in errors)
    write_part(ledger.output, name, table, Footer(ledger.run, ranges, {"retryable": retryable}))
    return name


def rows_of(units):
    return sorted((p.file.name, row) for unit in units for p in unit.pieces for row in range(p.start, p.stop))
