"""The files of finished rows: their names, what their footers say, writing and reading them.

File names follow from the rows in them. A worker that outlives a killed driver and finishes late writes the same
name with the same rows as the driver started next, so nothing is doubled. Knows nothing of a run's whole directory.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bigbird.errors import InputError
from pipelines.scoring.inputs.units import SOURCE_ROW
from pipelines.scoring.storage import Place, names_in, write_whole

PART_PREFIX = "part-"
FOOTER_KEY = b"bigbird_score"

_FOOTER_THREADS = 32
_DECODED_ROWS = 256


@dataclass(frozen=True)
class Footer:
    """What a finished file says of itself: the run it belongs to, its rows, and a summary of them."""

    run: str
    ranges: tuple[tuple[str, int, int], ...]
    summary: Mapping[str, Any]

    @property
    def num_rows(self) -> int:
        return sum(stop - start for _, start, stop in self.ranges)

    @property
    def written(self) -> float:
        """When a start wrote the file, for the first time or again, as far as its summary says so."""
        return float(max(self.summary.get("finished", 0.0), self.summary.get("rescored", 0.0)))

    def dumps(self) -> bytes:
        return json.dumps({"run": self.run, "ranges": self.ranges, "summary": self.summary}).encode()

    @staticmethod
    def loads(text: bytes) -> "Footer":
        content = json.loads(text)
        ranges = tuple((name, start, stop) for name, start, stop in content["ranges"])
        return Footer(content["run"], ranges, content["summary"])


class DamagedPartError(InputError):
    """A finished file that was cut short or overwritten since."""


def part_name(run: str, ranges: Sequence[tuple[str, int, int]]) -> str:
    """The name of the file that holds these rows in this run: sorted, names follow the order of the input."""
    name, start, _ = ranges[0]
    stem = re.sub(r"[^A-Za-z0-9_]+", "-", name.rpartition("/")[2].partition(".")[0])[:40]
    return f"{PART_PREFIX}{stem}-{start:09}-{digest([run, list(ranges)])[:16]}.parquet"


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, keys in order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_part(output: Place, name: str, table: pa.Table, footer: Footer) -> str:
    """Write one finished file, whole or not at all; returns its SHA-256."""
    metadata = {**(table.schema.metadata or {}), FOOTER_KEY: footer.dumps()}
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(metadata), sink, compression="zstd")
    content = sink.getvalue()
    write_whole(output.child(name), content)
    return hashlib.sha256(content).hexdigest()


def read_part(place: Place, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a finished file. Names of folders above it are no columns of its."""
    return pq.read_table(place.path, filesystem=place.filesystem, columns=columns, partitioning=None)


def read_footer(place: Place) -> Footer | None:
    """The footer of a finished file, or None where there is no such file.

    Raises DamagedPartError for a file that is no Parquet any more, InputError for one that carries none: somebody
    else's, or rewritten by another tool.
    """
    try:
        metadata = pq.read_metadata(place.path, filesystem=place.filesystem).metadata or {}
    except FileNotFoundError:
        return None
    except pa.ArrowInvalid as error:
        raise DamagedPartError(f"{place.name} is damaged ({error})") from error
    return footer_in(metadata, place)


def footer_in(metadata: Mapping[bytes, bytes], place: Place) -> Footer:
    """What the metadata of the file at `place` says of it. Raises InputError where that is nothing."""
    if FOOTER_KEY not in metadata:
        raise InputError(f"{place.name} was not written by a scoring job, or rewritten since; move it elsewhere")
    return Footer.loads(metadata[FOOTER_KEY])


def read_parts(output: Place, *, run: str | None = None, damaged: list[str] | None = None) -> dict[str, Footer]:
    """Footers of all finished files by name; names of damaged ones are added to `damaged`.

    Raises InputError for a file that belongs to another run than `run`, and, without `damaged`, for a damaged one.
    """

    def footer(name: str) -> Footer | None:
        try:
            return read_footer(output.child(name))
        except DamagedPartError:
            if damaged is None:
                raise
            damaged.append(name)
            return None

    names = [name for name in names_in(output) if name.startswith(PART_PREFIX)]
    with ThreadPoolExecutor(_FOOTER_THREADS) as pool:
        parts = {name: found for name, found in zip(names, pool.map(footer, names), strict=True) if found is not None}
    for name, found in parts.items():
        if run is not None and found.run != run:
            raise InputError(f"{output.child(name).name} belongs to another run; --overwrite starts anew")
    return parts


def rows_in_order(output: Place) -> Iterator[dict[str, Any]]:
    """The finished rows of one input file, in its order. Rows of damaged files are left out."""

    @lru_cache(maxsize=2)
    def table(name: str) -> pa.Table:
        return read_part(output.child(name))

    parts = read_parts(output, damaged=[])
    for _, start, stop, name in sorted((*range_, name) for name, footer in parts.items() for range_ in footer.ranges):
        rows = table(name).filter((pc.field(SOURCE_ROW) >= start) & (pc.field(SOURCE_ROW) < stop))
        for batch in rows.sort_by(SOURCE_ROW).to_batches(max_chunksize=_DECODED_ROWS):
            yield from batch.to_pylist()


def refuse_doubles(output: Place, parts: Mapping[str, Footer]) -> None:
    """Raises InputError naming two finished files that hold the same row.

    Happens to copies, and where a start with another `limit` follows one that was killed while its workers, which
    outlive it for seconds, were still writing.
    """
    ranges = sorted((*range_, name) for name, footer in parts.items() for range_ in footer.ranges)
    for (file, _, stop, name), (next_file, start, _, next_name) in itertools.pairwise(ranges):
        if file == next_file and start < stop:
            raise InputError(
                f"{output.name!r} holds row {start} of {file!r} twice, in {name} and {next_name}; delete one of them, "
                "and what is then missing is scored again"
            )
