"""Rows of input files as ranges: made of origin columns, joined, and taken away from what is to be done."""

import bisect
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from pipelines.scoring.inputs.units import Piece, Unit

Ranges = dict[str, list[tuple[int, int]]]
"""By input file, sorted, start and stop of rows."""


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
            start, ranges = piece.start, done.get(piece.file.name, [])
            first = bisect.bisect_right(ranges, start, key=lambda range_: range_[1])
            for index in range(first, len(ranges)):
                low, high = ranges[index]
                if low >= piece.stop:
                    break
                if low > start:
                    pieces.append(Piece(file=piece.file, start=start, stop=low))
                start = high
            if start < piece.stop:
                pieces.append(Piece(file=piece.file, start=start, stop=piece.stop))
        if pieces:
            left.append(Unit(pieces=tuple(pieces)))
    return left
