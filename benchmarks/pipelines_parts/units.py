"""Many units: what planning and the ledger cost the driver, by number, without a cluster.

A million units in one file, in a thousand files of Parquet and in one file of JSON lines; every second one done.
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from benchmarks.actor_memory import peak_rss_mib
from benchmarks.measure import machine
from pipelines.scoring.inputs.listing import Listing
from pipelines.scoring.inputs.source import UnitSource
from pipelines.scoring.inputs.units import InputFile
from pipelines.scoring.ledger.ledger import Ledger
from pipelines.scoring.ledger.parts import Footer, part_name, refuse_doubles
from pipelines.scoring.storage import locate

ROWS_A_UNIT = 10
SUMMARY = {"documents": 10, "tokens": 5000, "errors": {}, "started": 0.0, "finished": 1.0, "worker": "a-1-b"}
SCHEMA = pa.schema([("text", pa.string())])

_Made = TypeVar("_Made")


def units(options: argparse.Namespace, folder: Path) -> None:
    print(machine(1))
    number = options.units
    layouts = {
        "one file of Parquet": [_file("a.parquet", number)],
        "1,000 files": [_file(f"{index:04}.parquet", number // 1000) for index in range(1000)],
        "one file of JSON lines": [_file("a.jsonl", number)],
    }
    for name, files in layouts.items():
        print(f"{name}, {number:,} units")
        _account(Listing(filesystem=locate(str(folder)).filesystem, files=tuple(files), schema=SCHEMA), folder)


def _file(name: str, num_units: int) -> InputFile:
    """A file whose every group is a unit."""
    offsets = tuple(range(0, num_units << 20, 1 << 20)) if name.endswith(".jsonl") else ()
    groups = ((ROWS_A_UNIT, 1 << 20),) * num_units
    return InputFile(name=f"/{name}", path=f"/{name}", size=1, mtime_ns=1, groups=groups, offsets=offsets)


def _account(listing: Listing, folder: Path) -> None:
    ledger = Ledger(locate(str(folder)), "run", 1 << 20, SCHEMA, {file.name: 0 for file in listing.files})
    cut = _timed("cut into units", lambda: ledger.units_left(listing))
    source = UnitSource(cut, listing.filesystem, SCHEMA, 1 << 20)
    _timed("made into read tasks", lambda: source.get_read_tasks(len(cut)))
    ranges = [((unit.pieces[0].file.name, unit.pieces[0].start, unit.pieces[0].stop),) for unit in cut[::2]]
    done = {part_name("run", range_): Footer("run", range_, dict(SUMMARY)) for range_ in ranges}
    ledger.parts = done
    left = _timed("taken what is done from what is to do", lambda: ledger.units_left(listing))
    assert len(left) == len(cut) - len(done)
    _timed("looked for rows that are there twice", lambda: refuse_doubles(ledger.output, done))


def _timed(what: str, do: Callable[[], _Made]) -> _Made:
    began = time.process_time()
    made = do()
    print(f"  {time.process_time() - began:6.1f} s of processor time: {what}; peak {peak_rss_mib(os.getpid()):,} MiB")
    return made
