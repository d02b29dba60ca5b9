"""What a run keeps of itself in its output folder, in files that no reader of the folder trips over.

Some readers skip hidden files, some take every file of a folder, some want all to be of one format and schema. So a
record is a hidden Parquet file of the output's schema without a row, and its content stands in the footer.
"""

import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bigbird.errors import InputError
from pipelines.scoring.storage import Place, names_in, read_whole, write_whole

RUN_FILE = ".bigbird-run.parquet"
INPUTS_FILE = ".bigbird-inputs.parquet"
LEASE_FILE = ".bigbird-lease.parquet"
SUCCESS_FILE = "_SUCCESS"  # every row of every input is there; looked for by schedulers, read as Parquet by some

_CONTENT_KEY = b"bigbird_record"
# How version 0.1 called them, and what it left besides.
_FORMER_OF = {INPUTS_FILE: "_inputs.parquet", RUN_FILE: "_run.json"}
FORMER_FILES = (*_FORMER_OF.values(), "_report.html", "_report.json")


def write_record(output: Place, name: str, content: Any, schema: pa.Schema) -> None:
    """Write `content`, a JSON value, as the record `name` of an output with this schema."""
    sink = pa.BufferOutputStream()
    pq.ParquetWriter(sink, schema.with_metadata({_CONTENT_KEY: json.dumps(content)})).close()
    write_whole(output.child(name), sink.getvalue())


class DamagedRecordError(InputError):
    """A record that was cut short or overwritten since."""


def read_record(output: Place, name: str) -> Any:
    """The content of a record, None where there is none. Reads what version 0.1 kept as well.

    Raises DamagedRecordError for one that is no record any more.
    """
    content = read_whole(output.child(name))
    if content is not None:
        try:
            return json.loads(pq.read_metadata(io.BytesIO(content)).metadata[_CONTENT_KEY])
        except (ValueError, LookupError, TypeError) as error:  # ArrowInvalid is a ValueError
            way_on = "delete it" if name == LEASE_FILE else "--overwrite starts anew"
            raise DamagedRecordError(f"{output.child(name).name!r} is damaged: {error}; {way_on}") from error
    former = read_whole(output.child(_FORMER_OF[name])) if name in _FORMER_OF else None
    if former is None:
        return None
    return json.loads(former) if name == RUN_FILE else pq.read_table(io.BytesIO(former)).to_pylist()


def renew_former(output: Place, schema: pa.Schema) -> None:
    """Turn what version 0.1 kept of a run into records; its report goes, for the next one lies elsewhere."""
    present = [name for name in FORMER_FILES if name in names_in(output)]
    for record, former in _FORMER_OF.items():
        if former in present and read_whole(output.child(record)) is None:
            write_record(output, record, read_record(output, record), schema)
    for name in present:
        output.filesystem.delete_file(output.child(name).path)
