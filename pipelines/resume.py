"""What an output directory already holds, and what is left to do.

The directory is its own ledger. Every finished file (`part-*.parquet`) carries in its Parquet footer which rows
of which input files it holds and a summary of them, so a start reads footers, never rows. `_run.json` says what
kind of run this is; `_inputs.parquet` is the listing of input files it was started with.

    output/
      part-*.parquet    finished rows; written under another name and renamed, so never seen in halves
      _run.json         fingerprint: model weights, task, options, columns, size of a unit
      _inputs.parquet   name, size, mtime_ns, rows and generation of every input file
      _report.html, _report.json

File names follow from the rows in them. A worker that outlives a killed driver and finishes late writes the same
name with the same rows as the driver started next, so nothing is doubled.

Does not know how rows are scored, nor Ray.
"""

import hashlib
import io
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bigbird.errors import InputError
from pipelines.inputs import Listing
from pipelines.storage import Place, make_writable, names_in, read_whole, write_whole
from pipelines.units import SOURCE_FILE, SOURCE_ROW, InputFile, Piece, Unit, cut_units

RUN_FILE = "_run.json"
INPUTS_FILE = "_inputs.parquet"
REPORT_FILES = ("_report.html", "_report.json")
PART_PREFIX = "part-"
FOOTER_KEY = b"bigbird_score"

_FOOTER_THREADS = 32

Ranges = dict[str, list[tuple[int, int]]]


@dataclass(frozen=True)
class Footer:
    """What a finished file says of itself: the run it belongs to, its rows, and a summary of them."""

    run: str
    ranges: tuple[tuple[str, int, int], ...]
    summary: Mapping[str, Any]

    def dumps(self) -> bytes:
        return json.dumps({"run": self.run, "ranges": self.ranges, "summary": self.summary}).encode()

    @staticmethod
    def loads(text: bytes) -> "Footer":
        content = json.loads(text)
        ranges = tuple((name, start, stop) for name, start, stop in content["ranges"])
        return Footer(content["run"], ranges, content["summary"])


@dataclass
class Ledger:
    """An output directory opened for a run: its identity, the size of a unit, and the finished files."""

    output: Place
    run: str
    unit_bytes: int
    generations: dict[str, int]
    parts: dict[str, Footer] = field(default_factory=dict)

    @property
    def done(self) -> Ranges:
        """Finished rows by input file, as sorted ranges that do not touch."""
        return merge_ranges(range_ for footer in self.parts.values() for range_ in footer.ranges)

    @property
    def num_done(self) -> int:
        return sum(stop - start for ranges in self.done.values() for start, stop in ranges)

    def units_left(self, listing: Listing, *, limit: int | None = None) -> list[Unit]:
        """Units of rows not yet done, then one unit for each file with rows that failed for a passing cause."""
        by_generation: dict[int, list[InputFile]] = {}
        for file in listing.files:
            by_generation.setdefault(self.generations[file.name], []).append(file)
        units: list[Unit] = []
        for generation in sorted(by_generation):
            cut = cut_units(by_generation[generation], self.unit_bytes, limit=limit)
            units += cut
            if limit is not None:
                limit -= sum(unit.rows for unit in cut)
        left = subtract(units, self.done)
        files = {file.name: file for file in listing.files}
        return left + [
            _retry_unit(self.output, name, files)
            for name, footer in sorted(self.parts.items())
            if footer.summary.get("retryable")
        ]


def open_output(
    output: Place,
    *,
    fingerprint: Mapping[str, Any],
    listing: Listing,
    unit_bytes: int,
    overwrite: bool = False,
) -> Ledger:
    """Open an output directory: a new one, or one that the same run has begun.

    Raises InputError: not writable; it holds files of someone else; it was begun with another model, task or
    other options (each difference is named); input files changed or went since (each is named); it holds rows
    twice. `overwrite` deletes what an earlier run left, and nothing else.
    """
    make_writable(output)
    names = names_in(output)
    ours = [name for name in names if _is_ours(name)]
    if overwrite:
        for name in sorted(ours, key=lambda name: name == RUN_FILE):  # the identity goes last
            output.filesystem.delete_file(output.child(name).path)
        names = [name for name in names if name not in ours]
    strangers = [name for name in names if name not in ours and not name.startswith(".")]
    begun = read_whole(output.child(RUN_FILE))
    if begun is None:
        if strangers or any(name.startswith(PART_PREFIX) for name in names):
            raise InputError(
                f"output {output.name!r} holds {(strangers or names)[0]!r} but no {RUN_FILE}: it is not the output "
                "of a scoring job; choose another directory"
            )
        return _begin(output, fingerprint, listing, unit_bytes)
    for name in ours:
        if name.startswith("."):  # half-written by a process that was killed
            output.filesystem.delete_file(output.child(name).path)
    run = json.loads(begun)
    _refuse_differences(output, run["fingerprint"], json.loads(json.dumps(fingerprint)))
    generations = _compare_inputs(output, listing)
    ledger = Ledger(output, digest(fingerprint), run["unit_bytes"], generations)
    ledger.parts = read_parts(output, run=ledger.run)
    refuse_doubles(output, ledger.parts)
    return ledger


def part_name(run: str, ranges: Sequence[tuple[str, int, int]]) -> str:
    """The name of the file that holds these rows in this run: sorted, names follow the order of the input."""
    name, start, _ = ranges[0]
    stem = re.sub(r"[^A-Za-z0-9_]+", "-", name.rpartition("/")[2].partition(".")[0])[:40]
    return f"{PART_PREFIX}{stem}-{start:09}-{digest([run, list(ranges)])[:16]}.parquet"


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, keys in order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_part(output: Place, name: str, table: pa.Table, footer: Footer) -> int:
    """Write one finished file, whole or not at all; returns its size in bytes."""
    metadata = {**(table.schema.metadata or {}), FOOTER_KEY: footer.dumps()}
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(metadata), sink, compression="zstd")
    content = sink.getvalue()
    write_whole(output.child(name), content)
    return int(content.size)


def read_footer(place: Place) -> Footer | None:
    """The footer of a finished file, or None where there is no such file.

    Raises InputError for a file that carries none: somebody else's, or rewritten by another tool.
    """
    try:
        metadata = pq.read_metadata(place.path, filesystem=place.filesystem).metadata or {}
    except FileNotFoundError:
        return None
    except pa.ArrowInvalid as error:
        raise InputError(f"{place.name} is damaged ({error}); delete it to have its rows scored again") from error
    if FOOTER_KEY not in metadata:
        raise InputError(f"{place.name} was not written by a scoring job, or rewritten since; move it elsewhere")
    return Footer.loads(metadata[FOOTER_KEY])


def read_parts(output: Place, *, run: str | None = None) -> dict[str, Footer]:
    """Footers of all finished files by name. Raises InputError for one that belongs to another run than `run`."""
    names = [name for name in names_in(output) if name.startswith(PART_PREFIX)]
    with ThreadPoolExecutor(_FOOTER_THREADS) as pool:
        footers = pool.map(lambda name: read_footer(output.child(name)), names)
        parts = {name: footer for name, footer in zip(names, footers, strict=True) if footer is not None}
    for name, footer in parts.items():
        if run is not None and footer.run != run:
            raise InputError(f"{output.child(name).name} belongs to another run; --overwrite starts anew")
    return parts


def ranges_of(files: pa.ChunkedArray | pa.Array, rows: pa.ChunkedArray | pa.Array) -> list[tuple[str, int, int]]:
    """Origin columns reduced to ranges (file, start, stop), in order; rows need not be sorted."""
    encoded = pa.chunked_array([files]) if isinstance(files, pa.Array) else files
    encoded = encoded.combine_chunks().dictionary_encode()
    codes = np.asarray(encoded.indices.to_numpy(zero_copy_only=False))
    numbers = np.asarray(rows.to_numpy())
    order = np.lexsort((numbers, codes))
    codes, numbers = codes[order], numbers[order]
    breaks = np.flatnonzero((np.diff(codes) != 0) | (np.diff(numbers) != 1)) + 1
    starts = np.concatenate([[0], breaks]).astype(int)
    stops = np.concatenate([breaks, [len(numbers)]]).astype(int)
    names = encoded.dictionary.to_pylist()
    ranges = [(names[codes[a]], int(numbers[a]), int(numbers[b - 1]) + 1) for a, b in zip(starts, stops, strict=True)]
    return sorted(ranges)


def merge_ranges(ranges: Iterable[tuple[str, int, int]]) -> Ranges:
    """Ranges by file, sorted, neighbours joined."""
    merged: Ranges = {}
    for name, start, stop in sorted(ranges):
        known = merged.setdefault(name, [])
        if known and start <= known[-1][1]:
            known[-1] = (known[-1][0], max(known[-1][1], stop))
        else:
            known.append((start, stop))
    return merged


def subtract(units: Sequence[Unit], done: Ranges) -> list[Unit]:
    """The units without the rows that are done; a unit of which nothing is left goes."""
    left = []
    for unit in units:
        pieces = []
        for piece in unit.pieces:
            start = piece.start
            for low, high in done.get(piece.file.name, ()):
                if high <= start or low >= piece.stop:
                    continue
                if low > start:
                    pieces.append(Piece(file=piece.file, start=start, stop=low))
                start = max(start, high)
            if start < piece.stop:
                pieces.append(Piece(file=piece.file, start=start, stop=piece.stop))
        if pieces:
            left.append(Unit(pieces=tuple(pieces)))
    return left


def _begin(output: Place, fingerprint: Mapping[str, Any], listing: Listing, unit_bytes: int) -> Ledger:
    generations = {file.name: 0 for file in listing.files}
    _write_inputs(output, listing, generations)
    content = {"fingerprint": fingerprint, "unit_bytes": unit_bytes}
    write_whole(output.child(RUN_FILE), json.dumps(content, indent=2).encode())
    return Ledger(output, digest(fingerprint), unit_bytes, generations)


def _write_inputs(output: Place, listing: Listing, generations: Mapping[str, int]) -> None:
    columns = {
        "name": pa.array([file.name for file in listing.files], pa.string()),
        "size": pa.array([file.size for file in listing.files], pa.int64()),
        "mtime_ns": pa.array([file.mtime_ns for file in listing.files], pa.int64()),
        "rows": pa.array([file.rows for file in listing.files], pa.int64()),
        "generation": pa.array([generations[file.name] for file in listing.files], pa.int32()),
    }
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, compression="zstd")
    write_whole(output.child(INPUTS_FILE), sink.getvalue())


def _compare_inputs(output: Place, listing: Listing) -> dict[str, int]:
    """Generation of every input file; files added since make a new one. Raises for changed and missing ones."""
    content = read_whole(output.child(INPUTS_FILE))
    known = pq.read_table(io.BytesIO(content)).to_pylist() if content else []
    present = {file.name: file for file in listing.files}
    for entry in known:
        file = present.get(entry["name"])
        if file is None:
            raise InputError(
                f"input {entry['name']!r} is not among the inputs any more, but {output.name!r} was begun with it"
            )
        for what in ("size", "mtime_ns", "rows"):
            if getattr(file, what) != entry[what]:
                raise InputError(
                    f"input {file.name!r} changed since {output.name!r} was begun: {what} was {entry[what]}, is "
                    f"{getattr(file, what)}; --overwrite starts anew"
                )
    generations = {entry["name"]: entry["generation"] for entry in known}
    added = 1 + max(generations.values(), default=-1)
    if present.keys() - generations.keys():
        generations.update({name: added for name in present if name not in generations})
        _write_inputs(output, listing, generations)
    return generations


def _refuse_differences(output: Place, begun: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    differences = [
        f"{key} was {_short(begun.get(key))}, is {_short(wanted.get(key))}"
        for key in sorted({*begun, *wanted})
        if begun.get(key) != wanted.get(key)
    ]
    if differences:
        raise InputError(
            f"output {output.name!r} was begun by another run: {'; '.join(differences)}. Choose another directory, "
            "or --overwrite to start anew"
        )


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 200 else f"{text[:200]}..."


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


def _is_ours(name: str) -> bool:
    if name.startswith("."):
        return name.endswith(".tmp") and any(name.startswith(f".{start}") for start in (PART_PREFIX, "_"))
    part = name.startswith(PART_PREFIX) and name.endswith(".parquet")
    return part or name in (RUN_FILE, INPUTS_FILE, *REPORT_FILES)


def _retry_unit(output: Place, name: str, files: Mapping[str, InputFile]) -> Unit:
    """The rows of a finished file whose error may have passed."""
    place = output.child(name)
    columns = [SOURCE_FILE, SOURCE_ROW, "error"]
    table = pq.read_table(place.path, filesystem=place.filesystem, columns=columns, partitioning=None)
    failed = table.filter(pc.fill_null(pc.struct_field(table["error"], "retryable"), False))
    ranges = ranges_of(failed[SOURCE_FILE], failed[SOURCE_ROW])
    pieces = (Piece(file=files[file], start=start, stop=stop) for file, start, stop in ranges)
    return Unit(pieces=tuple(pieces), replaces=name)
