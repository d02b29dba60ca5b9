"""What an output directory already holds, and what is left to do.

The directory is its own ledger. Every finished file (`part-*.parquet`) carries in its Parquet footer which rows
of which input files it holds and a summary of them, so a start reads footers, never rows. Two records, which hold
no row (`ledger.records`), say what kind of run this is and list the input files it was started with.

    output/
      part-*.parquet            finished rows; written under another name and renamed, so never seen in halves
      .bigbird-run.parquet      fingerprint: model weights, task, options, columns, size of a unit
      .bigbird-inputs.parquet   name, size, mtime_ns, rows and generation of every input file
      .bigbird-lease.parquet    who writes here now (`ledger.lease`)
      _SUCCESS                  every row of every input is there
    output.report.html, output.report.json
    output.replaced/            what a later start could not use, until that one is done

Does not know how rows are scored, nor Ray.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from bigbird.errors import InputError
from pipelines.command_line import counted
from pipelines.scoring.inputs.listing import Listing
from pipelines.scoring.inputs.units import SOURCE_FILE, SOURCE_ROW, InputFile, Piece, Unit, cut_units
from pipelines.scoring.ledger.identity import refuse_differences
from pipelines.scoring.ledger.parts import PART_PREFIX, Footer, digest, read_part, read_parts, refuse_doubles
from pipelines.scoring.ledger.ranges import Ranges, merge_ranges, ranges_of, subtract
from pipelines.scoring.ledger.records import (
    INPUTS_FILE,
    RUN_FILE,
    SUCCESS_FILE,
    DamagedRecordError,
    read_record,
    renew_former,
    write_record,
)
from pipelines.scoring.ledger.replaced import delete_replaced, is_ours, set_aside
from pipelines.scoring.storage import Place, make_writable, names_in

_MOST_NOTES = 10


class MissingRowsError(RuntimeError):
    """Rows that a job is done with are not in its output."""


@dataclass
class Ledger:
    """An output directory opened for a run: its identity, the size of a unit, and the finished files.

    generations: for each input file, at which of the starts it came. notes: what a person should know of the opening.
    prefix: of the names of the columns that the job writes; scores: the names of its scores.
    """

    output: Place
    run: str
    unit_bytes: int
    schema: pa.Schema
    generations: dict[str, int] = field(default_factory=dict)
    parts: dict[str, Footer] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    prefix: str = ""
    scores: Sequence[str] = ("",)

    @property
    def done(self) -> Ranges:
        """Finished rows by input file, as sorted ranges that do not touch."""
        return merge_ranges(range_ for footer in self.parts.values() for range_ in footer.ranges)

    @property
    def num_done(self) -> int:
        return sum(stop - start for ranges in self.done.values() for start, stop in ranges)

    def finish(self, listing: Listing, limit: int | None = None) -> None:
        """Count again from the directory itself; where every row of every input is there, leave `_SUCCESS`.

        Raises MissingRowsError where rows are missing, InputError where some are there twice.
        """
        self.parts = read_parts(self.output, run=self.run)
        refuse_doubles(self.output, self.parts)
        wanted = min(listing.rows, limit or listing.rows)
        if self.num_done < wanted:
            raise MissingRowsError(f"{wanted - self.num_done:,} of {wanted:,} rows are missing from {self.output.name}")
        if self.num_done == listing.rows:
            write_record(self.output, SUCCESS_FILE, {"rows": self.num_done}, self.schema)
            delete_replaced(self.output)

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
            _retry_unit(self, name, files)
            for name, footer in sorted(self.parts.items())
            if footer.summary.get("retryable")
        ]


@dataclass
class Changes:
    """What opening an output does to it. stale: files to set aside, in this order. leftovers: files to delete.
    begins: the record of a new run. inputs: whether the list of the inputs is written."""

    stale: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    begins: Mapping[str, Any] | None = None
    inputs: bool = False


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

    What cannot be used any more is moved to `OUTPUT.replaced` and its rows are done again: damaged files, and files
    with rows of inputs that changed or went since. `overwrite` moves everything there that another run left, or
    that this run had finished; a run that is not finished goes on, so that a job sent again never loses its own
    progress. `Ledger.finish` deletes what was moved.

    Raises InputError: not writable; and as `read_output`.
    """
    make_writable(output)
    ledger, changes = read_output(output, fingerprint, listing, schema, unit_bytes, overwrite)
    change_output(ledger, changes, listing)
    return ledger


def change_output(ledger: Ledger, changes: Changes, listing: Listing) -> None:
    """Make of an output what a start needs, as `open_output` says."""
    output, schema = ledger.output, ledger.schema
    set_aside(output, changes.stale)
    for name in changes.leftovers:
        output.filesystem.delete_file(output.child(name).path)
    if changes.inputs:
        _write_inputs(output, listing, ledger.generations, schema)
    if changes.begins:
        write_record(output, RUN_FILE, changes.begins, schema)
    renew_former(output, schema)


def read_output(
    output: Place,
    fingerprint: Mapping[str, Any],
    listing: Listing,
    schema: pa.Schema,
    unit_bytes: int,
    overwrite: bool = False,
) -> tuple[Ledger, Changes]:
    """The ledger that `open_output` gives, and what that changes. Touches nothing.

    Raises InputError: it holds files of someone else; it was begun with another model, task or other options (each
    difference is named); not one of its inputs is there any more; it holds rows twice.
    """
    changes = Changes()
    wanted = json.loads(json.dumps(fingerprint))
    names = names_in(output)
    try:
        run, known = read_record(output, RUN_FILE), read_record(output, INPUTS_FILE)
    except DamagedRecordError:
        if not overwrite:
            raise
        run, known = {"fingerprint": None}, None
    ours = [name for name in names if is_ours(name)]
    if overwrite and run is not None and (run["fingerprint"] != wanted or SUCCESS_FILE in names):
        changes.stale = sorted(ours, key=lambda name: name in (RUN_FILE, "_run.json"))  # the identity goes last
        names, run = [name for name in names if name not in ours], None
    strangers = [name for name in names if name not in ours and not name.startswith(".")]
    if run is None:
        if strangers or any(name.startswith(PART_PREFIX) for name in names):
            raise InputError(
                f"output {output.name!r} holds {(strangers or names)[0]!r} but is not the output of a scoring job; "
                "choose another directory"
            )
        changes.begins, changes.inputs = {"fingerprint": fingerprint, "unit_bytes": unit_bytes}, True
        generations = {file.name: 0 for file in listing.files}
        return Ledger(output, digest(fingerprint), unit_bytes, schema, generations), changes
    changes.leftovers = [name for name in ours if name.endswith(".tmp")]  # of a process that was killed
    begun = run["fingerprint"]
    refuse_differences(output, begun, wanted)
    ledger = Ledger(
        output,
        digest(begun),
        run["unit_bytes"],
        schema,
        prefix=wanted.get("prefix", ""),
        scores=[*wanted.get("scores", [""])],
    )
    damaged = changes.stale
    ledger.parts = read_parts(output, run=ledger.run, damaged=damaged)
    if damaged:
        ledger.notes.append(f"{len(damaged):,} damaged files ({damaged[0]}) are done again")
    _compare_inputs(ledger, listing, changes, known or ())
    refuse_doubles(output, ledger.parts)
    if SUCCESS_FILE in names and ledger.num_done < listing.rows:
        changes.leftovers.append(SUCCESS_FILE)
    return ledger, changes


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


def _compare_inputs(
    ledger: Ledger, listing: Listing, changes: Changes, begun_with: Sequence[Mapping[str, Any]]
) -> None:
    """Find the generation of every input file (files added since make a new one), and what is stale.

    begun_with: the input files as the output has them on record.
    """
    known = {entry["name"]: entry for entry in begun_with}
    present = {file.name: file for file in listing.files}
    if known and not known.keys() & present.keys():
        raise InputError(
            f"output {ledger.output.name!r} was begun with other inputs: {next(iter(known))!r} and all of its others "
            "are not among the inputs any more; choose another directory, or --overwrite to start anew"
        )
    stale = {}
    for name, entry in known.items():
        file = present.get(name)
        if file is None:
            stale[name] = f"input {name!r} is not there any more"
        elif any(getattr(file, what) != entry[what] for what in ("size", "mtime_ns", "rows")):
            stale[name] = f"input {name!r} changed since"
    parts_of: dict[str, list[str]] = {}
    for part, footer in ledger.parts.items():
        for name in {file for file, *_ in footer.ranges}:
            parts_of.setdefault(name, []).append(part)
    for name, reason in stale.items():
        parts = [part for part in parts_of.get(name, ()) if part in ledger.parts]
        changes.stale += parts
        rows = sum(ledger.parts.pop(part).num_rows for part in parts)
        ledger.notes.append(f"{reason}; done again: {counted(len(parts), 'file')} with {counted(rows, 'row')}")
    if len(ledger.notes) > _MOST_NOTES:
        ledger.notes[_MOST_NOTES:] = [f"and {len(ledger.notes) - _MOST_NOTES:,} more inputs that changed or went"]
    added = 1 + max((entry["generation"] for entry in known.values()), default=-1)
    ledger.generations = {name: known[name]["generation"] if name in known else added for name in present}
    changes.inputs = bool(stale) or present.keys() != known.keys()


def _retry_unit(ledger: Ledger, name: str, files: Mapping[str, InputFile]) -> Unit:
    """The rows of a finished file on which a score failed for a cause that may have passed."""
    origin = [ledger.prefix + column for column in (SOURCE_FILE, SOURCE_ROW)]
    errors = [f"{ledger.prefix}{score}_error" if score else f"{ledger.prefix}error" for score in ledger.scores]
    table = read_part(ledger.output.child(name), [*origin, *errors])
    failed = reduce(pc.or_, (pc.fill_null(pc.struct_field(table[error], "retryable"), False) for error in errors))
    ranges = ranges_of(*(table[column].filter(failed) for column in origin))
    pieces = (Piece(file=files[file], start=start, stop=stop) for file, start, stop in ranges)
    return Unit(pieces=tuple(pieces), replaces=name)
