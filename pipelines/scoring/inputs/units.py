"""Units of work: which rows of which files become one output file.

Cut before anything runs, from the listing alone, so the same input gives the same units on every start. Does not
know how files are listed or read. Nothing here, nor in `inputs.reading`, imports the model library: processes
that only read should not wait for torch.
"""

import bisect
import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

SOURCE_FILE = "source_file"
SOURCE_ROW = "source_row"
# Columns that rows have on the way through a job, and no output.
READ_ERROR = "__read_error"  # why a row could not be read
REPLACES = "__replaces"  # the finished file whose rows a unit scores again
PREPARED = "__prepared"  # what a worker has tokenized ahead
ON_THE_WAY = (READ_ERROR, REPLACES, PREPARED)
PARQUET_SUFFIXES = (".parquet", ".pq", ".parq")
JSON_SUFFIXES = tuple(name + packed for name in (".jsonl", ".ndjson", ".json") for packed in ("", ".gz", ".zst"))
NO_PARTITION = "__HIVE_DEFAULT_PARTITION__"  # how Hive writes a null

# One unit becomes one file, is what a killed process loses, and what the last actor works at while the others have
# nothing left. A core of a CPU may read a kilobyte or two a second: few documents are divided among actors as well.
LARGEST_UNIT_BYTES = {"cpu": 4 << 20, "cuda": 64 << 20}
SMALLEST_UNIT_BYTES = {"cpu": 16 << 10, "cuda": 256 << 10}
UNITS_PER_ACTOR = 8
# Opening a file costs time whatever is in it; and the driver spends some ten milliseconds on a unit.
_MAX_UNIT_FILES = 32
_MAX_UNITS = 50_000
_MAX_UNIT_ROWS = 200_000


@dataclass(frozen=True, kw_only=True)
class InputFile:
    """One file of the listing.

    groups: (rows, bytes) for each row group of Parquet, each megabyte of JSON lines; bytes are those of the columns
    that a task reads, or a share of those that are kept, whichever is more. offsets: where each group of JSON lines
    begins.
    """

    name: str  # what `source_file` says: the absolute path or the URI
    path: str  # what the filesystem calls it
    size: int
    mtime_ns: int
    groups: tuple[tuple[int, int], ...]
    offsets: tuple[int, ...] = ()
    partition: tuple[tuple[str, str], ...] = ()

    @property
    def rows(self) -> int:
        return sum(rows for rows, _ in self.groups)

    @cached_property
    def starts(self) -> list[int]:
        """The first row of each group."""
        return list(itertools.accumulate((rows for rows, _ in self.groups[:-1]), initial=0))

    @property
    def is_parquet(self) -> bool:
        return not self.name.lower().endswith(JSON_SUFFIXES)


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Rows [start, stop) of one file. `near`: a row at or before `start`, and the byte of JSON it begins at."""

    file: InputFile
    start: int
    stop: int
    near: tuple[int, int] = (0, 0)

    @property
    def without_groups(self) -> "Piece":
        """The same without the groups of its file, which may be many."""
        near = (0, 0)
        if self.file.offsets:
            group = bisect.bisect_right(self.file.starts, self.start) - 1
            near = (self.file.starts[group], self.file.offsets[group])
        return replace(self, file=replace(self.file, groups=(), offsets=()), near=near)


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What one output file is made from. `replaces` names the finished file whose failed rows are tried again."""

    pieces: tuple[Piece, ...]
    replaces: str | None = None

    @property
    def without_groups(self) -> "Unit":
        """The same without the groups of its files, which may be many and which a reader finds in the file."""
        return Unit(pieces=tuple(piece.without_groups for piece in self.pieces), replaces=self.replaces)

    @property
    def rows(self) -> int:
        return sum(piece.stop - piece.start for piece in self.pieces)


def size_of_units(files: Iterable[InputFile], device: str, num_actors: int) -> int:
    """Bytes of input text to a unit: several for each actor, of a size that `device` ("cpu", "cuda") bounds.

    Of terabytes they are larger, for the driver's sake.
    """
    total = sum(size for file in files for _, size in file.groups)
    even = total // (UNITS_PER_ACTOR * num_actors)
    return max(SMALLEST_UNIT_BYTES[device], min(even, LARGEST_UNIT_BYTES[device]), total // _MAX_UNITS)


def cut_units(files: Iterable[InputFile], unit_bytes: int, *, limit: int | None = None) -> list[Unit]:
    """Cut the rows of `files` into units of about `unit_bytes` bytes, in order.

    Row groups are the grain: a large one is cut into equal parts, small ones (and a few small files) are put together.
    `limit` keeps the first rows only. Deterministic in the files and `unit_bytes`.
    """
    units: list[Unit] = []
    pieces: list[Piece] = []
    filled = rows_in_unit = 0
    left = math.inf if limit is None else limit

    def close() -> None:
        nonlocal filled, rows_in_unit
        if pieces:
            units.append(Unit(pieces=tuple(pieces)))
        pieces.clear()
        filled = rows_in_unit = 0

    for file in files:
        start = 0
        for rows, size in file.groups:
            parts = max(1, math.ceil(size / unit_bytes), math.ceil(rows / _MAX_UNIT_ROWS))
            parts = min(parts, max(rows, 1))
            bounds = [start + rows * part // parts for part in range(parts + 1)]
            for low, high in itertools.pairwise(bounds):
                high = int(min(high, low + left))
                if high <= low:
                    continue
                part_bytes = size // parts
                another = len(pieces) == _MAX_UNIT_FILES and pieces[-1].file is not file
                full = filled + part_bytes > unit_bytes or rows_in_unit + high - low > _MAX_UNIT_ROWS
                if pieces and (full or another):
                    close()
                last = pieces[-1] if pieces else None
                if last and last.file is file and last.stop == low:
                    pieces[-1] = Piece(file=file, start=last.start, stop=high)
                else:
                    pieces.append(Piece(file=file, start=low, stop=high))
                filled += part_bytes
                rows_in_unit += high - low
                left -= high - low
            start += rows
    close()
    return units
