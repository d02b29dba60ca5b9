"""A sample of the rows a start would score: the lengths of many, and strata of them from which a few are tokenized.

Lengths decide what a row costs, and in most corpora a few long documents hold most of the text. So the rows that are
read, drawn evenly over files and positions, are sorted by length and cut into strata that hold equal shares of the
text; each gives a few rows. What is found of those holds for the stratum in proportion to its text.
"""

import dataclasses
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.scoring.inputs.reading import read_unit
from pipelines.scoring.ledger.ledger import Ledger
from pipelines.scoring.plan import Plan
from pipelines.scoring.schemas import column_at, top_level

# So much text is read for its lengths, in stretches of so many bytes; and so much of it is tokenized.
READ_BYTES = 64 << 20
STRETCH_BYTES = 256 << 10
TOKENIZED_BYTES = 4_000_000
NUM_STRATA = 8
MIN_STRETCHES = 8
MIN_ROWS = 2
MAX_ROWS = 128

_MAX_STRETCHES = 50_000  # to choose from
_THREADS = 8


@dataclass(frozen=True, kw_only=True)
class Stratum:
    """Rows of like length, and some of them.

    num_bytes: of text in all rows of the stratum that the start would score, by extrapolation. rows: those drawn;
    lengths: the bytes of text of each, (rows,).
    """

    num_bytes: float
    rows: pa.Table
    lengths: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Strata of the rows that were read.

    error: standard error of the bytes of text, as a share of them, from reading some stretches; 0 where all were read.
    """

    strata: Sequence[Stratum]
    num_read: int
    error: float


def draw(plan: Plan, ledger: Ledger, limit: int | None, seed: int) -> Sample:
    """A sample of the rows that are left in `ledger`; the same for the same seed."""
    rng = random.Random(seed)
    total = sum(size for file in plan.listing.files for _, size in file.groups)
    size = max(STRETCH_BYTES, total // _MAX_STRETCHES)
    stretches = dataclasses.replace(ledger, unit_bytes=size).units_left(plan.listing, limit=limit)
    count = min(len(stretches), max(MIN_STRETCHES, READ_BYTES // size))
    step, first = len(stretches) / count, rng.random()
    chosen = [stretches[int((number + first) * step)] for number in range(count)]
    names = {top_level(name, plan.read_schema.names) for name in plan.stage.columns.values()}
    schema = pa.schema([field for field in plan.read_schema if field.name in names])
    with ThreadPoolExecutor(_THREADS) as pool:
        tables = list(pool.map(lambda unit: read_unit(unit, plan.listing.filesystem, schema), chosen))
    table = pa.concat_tables(tables)
    # A row with a null in what one score reads has text for the others.
    read = {tuple(score.columns.values()) for score in plan.stage.scores}
    of_tables = [np.sum([_lengths(one, columns) for columns in read], axis=0) for one in tables]
    lengths, sums = np.concatenate(of_tables), np.array([one.sum() for one in of_tables], dtype=float)
    error = 0.0
    if count < len(stretches) and sums.sum():
        error = float(sums.std(ddof=1) / np.sqrt(count) / sums.mean() * np.sqrt(1 - count / len(stretches)))
    return Sample(strata=_strata(table, lengths, step, rng), num_read=table.num_rows, error=error)


def _strata(table: pa.Table, lengths: np.ndarray, weight: float, rng: random.Random) -> list[Stratum]:
    """Strata of equal shares of the text, the shortest rows first; weight: rows that each row read stands for."""
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] > 0]
    share = np.cumsum(lengths[order]) / max(lengths.sum(), 1)
    # By the middle of a row: one that is longer than a stratum's share is in one stratum, whole.
    number = np.minimum((share - lengths[order] / max(lengths.sum(), 1) / 2) * NUM_STRATA, NUM_STRATA - 1).astype(int)
    strata = []
    for one in range(NUM_STRATA):
        rows = order[number == one]
        if not len(rows):
            continue
        drawn = np.array(rng.sample(rows.tolist(), min(len(rows), MAX_ROWS)))
        enough = np.cumsum(lengths[drawn]) <= TOKENIZED_BYTES / NUM_STRATA
        drawn = drawn[: max(MIN_ROWS, int(enough.sum()))]
        strata.append(
            Stratum(
                num_bytes=float(lengths[rows].sum()) * weight,
                rows=pa.concat_tables([table.slice(int(row), 1) for row in drawn]),
                lengths=lengths[drawn],
            )
        )
    return strata


def _lengths(table: pa.Table, columns: Sequence[str]) -> np.ndarray:
    """Bytes of text of each row in the columns that one score reads, (rows,) int64; a row with a null has none."""
    total = pa.array(np.zeros(table.num_rows, dtype=np.int64))
    for name in columns:
        column = column_at(table, name).combine_chunks()
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if isinstance(column, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
            sizes = [None if row is None else sum(len(text or "") for text in row) for row in column.to_pylist()]
            lengths = pa.array(sizes, pa.int64())
        else:
            lengths = pc.binary_length(column.cast(pa.large_binary())).cast(pa.int64())
        total = pc.add(total, lengths)
    return np.asarray(pc.fill_null(total, 0))
