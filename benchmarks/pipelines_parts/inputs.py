"""Inputs of awkward shapes: one huge row group, many tiny files, JSON lines. What listing and reading them costs.

Bytes and requests are those of the process as the system counts them: `read` calls and what they gave.
"""

import argparse
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.actor_memory import peak_rss_mib
from benchmarks.measure import machine
from pipelines.scoring.inputs.listing import list_inputs
from pipelines.scoring.inputs.reading import read_unit
from pipelines.scoring.inputs.units import cut_units, size_of_units

_WORDS = [f"{random.Random(0).getrandbits(40):x}{number}" for number in range(5000)]


def inputs(options: argparse.Namespace, folder: Path) -> None:
    """Each shape in a process of its own, so that its peak memory is its own."""
    if options.input:
        _look(Path(options.input[0]), options.device)
        return
    print(machine(1))
    shapes: dict[str, tuple[Callable[[Path, int], None], int]] = {
        f"one row group of {options.megabytes} MB": (_row_group, options.megabytes),
        f"{options.files:,} files": (_files, options.files),
        f"JSON lines of {options.megabytes} MB": (_json_lines, options.megabytes),
    }
    for number, (name, (write, size)) in enumerate(shapes.items()):
        write(folder / str(number), size)
        for device in ("cpu", "cuda"):
            print(f"{name}, units for {device}", flush=True)
            command = [sys.executable, "-m", "benchmarks.pipelines", "inputs", "--device", device]
            subprocess.run([*command, "--input", str(folder / str(number))], check=True)


def _look(source: Path, device: str) -> None:
    """Lists an input, then reads its first, middle and last unit as read tasks do."""
    schema_bytes = sum(path.stat().st_size for path in source.iterdir())
    with _Counted(f"listed {schema_bytes / 1e6:,.0f} MB"):
        listing = list_inputs([str(source)], read={"text": "text"})
    units = cut_units(listing.files, size_of_units(listing.files, device, num_actors=8))
    print(f"  {len(units):,} units of {units[0].rows:,} rows, {len(units[0].pieces)} pieces", flush=True)
    for number in sorted({0, len(units) // 2, len(units) - 1}):
        with _Counted(f"read unit {number:,}"):
            table = read_unit(units[number].without_groups, listing.filesystem, listing.schema)
        assert table.num_rows == units[number].rows
        del table


class _Counted:
    """Prints what was done within: seconds, bytes and requests, and the peak memory since the process began."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        self._began, self._before = time.process_time(), _read_so_far()

    def __exit__(self, *error: object) -> None:
        nbytes, requests = (now - before for now, before in zip(_read_so_far(), self._before, strict=True))
        print(
            f"  {self._what}: {time.process_time() - self._began:.1f} s of processor time, {nbytes / 1e6:,.0f} MB in "
            f"{requests:,} reads; peak {peak_rss_mib(os.getpid()):,} MiB",
            flush=True,
        )


def _read_so_far() -> tuple[int, int]:
    counts = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counts["rchar"]), int(counts["syscr"])


def _text(draw: random.Random, num_bytes: int) -> str:
    return " ".join(draw.choices(_WORDS, k=num_bytes // 15))


def _row_group(folder: Path, megabytes: int) -> None:
    folder.mkdir()
    draw = random.Random(1)
    some = [_text(draw, 20_000) for _ in range(500)]
    texts = pa.array([draw.choice(some)[draw.randrange(5000) :] for _ in range(megabytes * 1_000_000 // 17_000)])
    table = pa.table({"id": range(len(texts)), "text": texts})
    options = {"row_group_size": len(texts), "use_dictionary": False, "compression": "none"}
    pq.write_table(table, folder / "a.parquet", **options)


def _files(folder: Path, number: int) -> None:
    folder.mkdir()
    draw = random.Random(2)
    for index in range(number):
        pq.write_table(pa.table({"text": [_text(draw, 500)] * 3}), folder / f"{index:06}.parquet")


def _json_lines(folder: Path, megabytes: int) -> None:
    folder.mkdir()
    draw = random.Random(3)
    line = '{{"id": {}, "text": "{}"}}\n'
    some = [_text(draw, 4000) for _ in range(100)]
    with open(folder / "a.jsonl", "w") as file:
        for index in range(megabytes * 1_000_000 // 4000):
            file.write(line.format(index, some[index % len(some)]))
