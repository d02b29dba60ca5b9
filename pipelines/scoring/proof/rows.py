"""Rows of an output beside the input they came from and the records they get when they are scored again."""

import bisect
import dataclasses
import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipelines.scoring.actors.score_rows import ScoreRows, Stage
from pipelines.scoring.inputs.listing import Listing
from pipelines.scoring.inputs.reading import read_unit
from pipelines.scoring.inputs.units import READ_ERROR, SOURCE_FILE, SOURCE_ROW, Piece, Unit
from pipelines.scoring.ledger.parts import Footer, read_part
from pipelines.scoring.proof.compare import differences
from pipelines.scoring.schemas import own_columns, top_level
from pipelines.scoring.storage import Place

Answer = Callable[[pa.Table], list[list[dict[str, Any]]]]
"""Rows of an input -> for each score, of each row the fields that were found."""

Origin = tuple[str, str, int]
"""Where a row stands: in which part, and from which row of which file it came."""

# Causes of a failure that are not of the row alone; the second would end this process as well.
_NOT_OF_THE_ROW = ("ReadError", "ProcessDied")
_SHOWN_CHARS = 80


def draw_rows(footers: Mapping[str, Footer], listing: Listing, most: int, seed: int) -> list[Origin]:
    """At most so many rows at random, each with the same chance, in random order, from inputs that still exist."""
    present = {file.name for file in listing.files}
    every = [(name, *range_) for name, footer in sorted(footers.items()) for range_ in footer.ranges]
    every = [entry for entry in every if entry[1] in present]
    ends = list(itertools.accumulate(stop - start for *_, start, stop in every))
    total = ends[-1] if ends else 0
    origins = []
    for pick in random.Random(seed).sample(range(total), min(most, total)):
        part, file, _, stop = every[place := bisect.bisect_right(ends, pick)]
        origins.append((part, file, stop - ends[place] + pick))
    return origins


def scored_alone(receipt: Mapping[str, Any], stage: Stage) -> Answer:
    """What scores each row in a batch of its own, or in batches if the job had batches of one."""
    alone = receipt["max_tokens_per_batch"] != 1
    scorer = ScoreRows(dataclasses.replace(stage, max_tokens_per_batch=1 if alone else None))

    def answer(rows: pa.Table) -> list[list[dict[str, Any]]]:
        table = scorer(rows)
        return [own_columns(table, score.results, stage.prefix, score.prefix).to_pylist() for score in stage.scores]

    return answer


def compare_rows(
    output: Place,
    listing: Listing,
    receipt: Mapping[str, Any],
    stage: Stage,
    answer: Answer,
    origins: Sequence[Origin],
    tolerance: float,
) -> tuple[int, list[str]]:
    """How many of the rows were scored again, and what differs, a line each.

    Kept columns are compared with the input's, results with those found, numbers within `tolerance`.
    """
    files = {file.name: file for file in listing.files}
    names = {*receipt["kept"], *(top_level(name, listing.schema.names) for name in stage.columns.values())}
    schema = pa.schema([column for column in listing.schema if column.name in names])
    compared, given, before = [], [], []
    parts: dict[str, tuple[pa.Table, dict[tuple[str, int], int]]] = {}
    for part, file, row in origins:
        unit = Unit(pieces=(Piece(file=files[file], start=row, stop=row + 1),)).without_groups
        read = read_unit(unit, listing.filesystem, schema, stage.prefix)
        if part not in parts:
            parts[part] = _read(output.child(part), stage.prefix)
        table, places = parts[part]
        stored = table.slice(places[file, row], 1)
        own = [own_columns(stored, score.results, stage.prefix, score.prefix).to_pylist()[0] for score in stage.scores]
        if read[READ_ERROR][0].as_py() is None and not any(map(_may_pass, own)):
            compared.append((file, row, stored))
            given.append(read.drop_columns([READ_ERROR]))
            before.append(own)
    if not compared:
        return 0, []
    found = answer(pa.concat_tables(given))
    lines = []
    for index, (file, row, stored) in enumerate(compared):
        off = [
            (name, stored[name], given[index][name])
            for name in receipt["kept"]
            if not _same(stored[name], given[index][name])
        ]
        for number, score in enumerate(stage.scores):
            of_score = found[number][index]
            for name, value in before[index][number].items():
                column = f"{stage.prefix}{score.prefix}{name}"
                if name == "error":
                    one, other = (error and error["type"] for error in (value, of_score.get("error")))
                    off += [(column, one, other)] if one != other else []
                elif name in of_score and name not in (SOURCE_FILE, SOURCE_ROW):
                    off += differences(value, of_score[name], tolerance, column)
        lines += [
            f"row {row:,} of {file}, column {where}: {_short(one)} in the output, {_short(other)} now"
            for where, one, other in off
        ]
    return len(compared), lines


def _read(part: Place, prefix: str) -> tuple[pa.Table, dict[tuple[str, int], int]]:
    """A part file, and where in it each row of an input stands."""
    table = read_part(part)
    sources = zip(table[prefix + SOURCE_FILE].to_pylist(), table[prefix + SOURCE_ROW].to_pylist(), strict=True)
    return table, {source: place for place, source in enumerate(sources)}


def _may_pass(record: Mapping[str, Any]) -> bool:
    """Whether a row failed for a cause that another attempt may be without, or that is not of the row alone."""
    error = record["error"]
    return error is not None and bool(error["retryable"] or error["type"] in _NOT_OF_THE_ROW)


def _same(one: pa.ChunkedArray, other: pa.ChunkedArray) -> bool:
    return bool(one.equals(other)) or _short(one, None) == _short(other, None)  # as text, nan is itself


def _short(value: Any, most: int | None = _SHOWN_CHARS) -> str:
    if isinstance(value, pa.ChunkedArray):
        try:
            value = value[0].as_py()
        except UnicodeDecodeError:  # writers do not check what they call strings
            value = value.combine_chunks().cast(pa.binary())[0].as_py()
    text = repr(value)
    return text if most is None or len(text) <= most else f"{text[:most]}..."
