"""What an output directory already holds, and what is left to do.

The directory is its own ledger. Every finished file (`part-*.parquet`) carries in its Parquet footer which rows
of which input files it holds and a summary of them, so a start reads footers, never rows. Two records, which hold
no row (`ledger.records`), say what kind of run this is and list the input files it was started with.

    output/
      part-*.parquet            finished rows; written under another name and renamed, so never seen in halves
      .bigbird-run.parquet      fingerprint: model weights, task, options, columns, size of a unit
      .bigbird-inputs.parquet   name, size, mtime_ns, rows and generation of every input file
    output.report.html, output.report.json

Does not know how rows are scored, nor Ray.
"""

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bigbird.errors import InputError
from pipelines.scoring.inputs.listing import Listing
from pipelines.scoring.inputs.units import SOURCE_FILE, SOURCE_ROW, InputFile, Piece, Unit, cut_units
from pipelines.scoring.ledger.parts import PART_PREFIX, Footer, digest, read_parts
from pipelines.scoring.ledger.ranges import Ranges, merge_ranges, ranges_of, subtract
from pipelines.scoring.ledger.records import (
    FORMER_FILES,
    INPUTS_FILE,
    RUN_FILE,
    read_record,
    renew_former,
    write_record,
)
from pipelines.scoring.storage import Place, make_writable, names_in


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
    schema: pa.Schema,
    unit_bytes: int,
    overwrite: bool = False,
) -> Ledger:
    """Open an output directory of files with this schema: a new one, or one that the same run has begun.

    Raises InputError: not writable; it holds files of someone else; it was begun with another model, task or
    other options (each difference is named); input files changed or went since (each is named); it holds rows
    twice. `overwrite` deletes what an earlier run left, and nothing else.
    """
    make_writable(output)
    names = names_in(output)
    ours = [name for name in names if _is_ours(name)]
    if overwrite:
        for name in sorted(ours, key=lambda name: name in (RUN_FILE, "_run.json")):  # the identity goes last
            output.filesystem.delete_file(output.child(name).path)
        names = [name for name in names if name not in ours]
    strangers = [name for name in names if name not in ours and not name.startswith(".")]
    run = read_record(output, RUN_FILE)
    if run is None:
        if strangers or any(name.startswith(PART_PREFIX) for name in names):
            raise InputError(
                f"output {output.name!r} holds {(strangers or names)[0]!r} but is not the output of a scoring job; "
                " choose another directory"
            )
        return _begin(output, fingerprint, listing, schema, unit_bytes)
    for name in ours:
        if name.endswith(".tmp"):  # half-written by a process that was killed
            output.filesystem.delete_file(output.child(name).path)
    _refuse_differences(output, run["fingerprint"], json.loads(json.dumps(fingerprint)))
    generations = _compare_inputs(output, listing, schema)
    renew_former(output, schema)
    ledger = Ledger(output, digest(fingerprint), run["unit_bytes"], generations)
    ledger.parts = read_parts(output, run=ledger.run)
    refuse_doubles(output, ledger.parts)
    return ledger


def _begin(
    output: Place, fingerprint: Mapping[str, Any], listing: Listing, schema: pa.Schema, unit_bytes: int
) -> Ledger:
    generations = {file.name: 0 for file in listing.files}
    _write_inputs(output, listing, generations, schema)
    write_record(output, RUN_FILE, {"fingerprint": fingerprint, "unit_bytes": unit_bytes}, schema)
    return Ledger(output, digest(fingerprint), unit_bytes, generations)


def _write_inputs(output: Place, listing: Listing, generations: Mapping[str, int], schema: pa.Schema) -> None:
    entries = [
        {
            "name": file.name,
            "size": file.size,
            "mtime_ns": file.mtime_ns,
            "rows": file.rows,
            "generation": generations[file.name],
        }
        for file in listing.files
    ]
    write_record(output, INPUTS_FILE, entries, schema)


def _compare_inputs(output: Place, listing: Listing, schema: pa.Schema) -> dict[str, int]:
    """Generation of every input file; files added since make a new one. Raises for changed and missing ones."""
    known = read_record(output, INPUTS_FILE) or []
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
        _write_inputs(output, listing, generations, schema)
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
        half_written = name.startswith((f".{PART_PREFIX}", "..bigbird-", "._")) and name.endswith(".tmp")
        return half_written or name in (RUN_FILE, INPUTS_FILE)
    return (name.startswith(PART_PREFIX) and name.endswith(".parquet")) or name in FORMER_FILES


def _retry_unit(output: Place, name: str, files: Mapping[str, InputFile]) -> Unit:
    """The rows of a finished file whose error may have passed."""
    place = output.child(name)
    columns = [SOURCE_FILE, SOURCE_ROW, "error"]
    table = pq.read_table(place.path, filesystem=place.filesystem, columns=columns, partitioning=None)
    failed = table.filter(pc.fill_null(pc.struct_field(table["error"], "retryable"), False))
    ranges = ranges_of(failed[SOURCE_FILE], failed[SOURCE_ROW])
    pieces = (Piece(file=files[file], start=start, stop=stop) for file, start, stop in ranges)
    return Unit(pieces=tuple(pieces), replaces=name)
