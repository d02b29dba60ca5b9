"""What files of an input say of themselves beyond their rows, as far as it holds for the output as well."""

import json
from collections.abc import Mapping, Sequence

_PANDAS = b"pandas"
# What describes all columns of a file does not fit an output, which has more; and a part of an output its own rows.
_OF_THE_FILE_ALONE = (b"org.apache.spark.", b"iceberg.", b"parquet.avro.", b"avro.", b"parquet.proto.", b"bigbird_")


def common_metadata(files: Sequence[Mapping[bytes, bytes]]) -> dict[bytes, bytes] | None:
    """Entries that all files have alike; pandas' types of columns and its index as far as they are."""
    if not files:
        return None
    first = files[0]
    common = {
        key: value
        for key, value in first.items()
        if not key.startswith(_OF_THE_FILE_ALONE) and all(other.get(key) == value for other in files[1:])
    }
    if all(_PANDAS in metadata for metadata in files):
        found = [json.loads(metadata[_PANDAS]) for metadata in files]
        columns = [column for column in found[0]["columns"] if all(column in other["columns"] for other in found[1:])]
        index = found[0]["index_columns"]
        if any(other["index_columns"] != index for other in found[1:]) or not all(isinstance(n, str) for n in index):
            index = []  # ranges count the rows of one file
        common[_PANDAS] = json.dumps({**found[0], "columns": columns, "index_columns": index}).encode()
    return common or None
