"""Before anything computes: does each node see the input, the output and the model?

Imports nothing of the model library: the process that looks on a node reads for the job afterwards.
"""

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow.fs as pafs
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

# A folder shared over a network may show a new file late.
_PATIENCE_S = 5.0
_TIMEOUT_S = 60.0

Seen = tuple[pafs.FileSystem, str, int]
"""A file that every node must see: its filesystem, path and size in bytes."""


def look_on_nodes(files: Sequence[tuple[str, Seen]]) -> dict[Any, str]:
    """Ask every node that does work what it lacks of files, (what it is, the file): the answers' references, with the
    address of each node."""
    look = ray.remote(num_cpus=0, max_retries=0)(missing)
    asked: dict[Any, str] = {}
    for node in ray.nodes():  # type: ignore[no-untyped-call]
        if node["Alive"] and node["Resources"].get("CPU"):
            here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked[look.options(scheduling_strategy=here).remote(files)] = node["NodeManagerAddress"]
    return asked


def blind_nodes(asked: Mapping[Any, str]) -> list[str]:
    """What the nodes of `look_on_nodes` lack, a line each: `node 10.0.0.3 has no model at /models/x`.

    One that does not answer in time is left out: it may just be leaving.
    """
    answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_TIMEOUT_S) if asked else ([], [])
    lines = []
    for answer in answered:
        try:
            lines += [f"node {asked[answer]} {lack}" for lack in ray.get(answer)]
        except ray.exceptions.RayError:
            continue  # the node has left
    return lines


def missing(files: Sequence[tuple[str, Seen]]) -> list[str]:
    """What this process does not see of `files`."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        lacks = [lack for what, seen in files if (lack := _lack(what, *seen))]
        if not lacks or time.monotonic() > deadline:
            return lacks
        time.sleep(0.5)


def _lack(what: str, filesystem: pafs.FileSystem, path: str, size: int) -> str | None:
    try:
        info = filesystem.get_file_info(os.path.abspath(path) if filesystem.type_name == "local" else path)
    except OSError as error:
        return f"cannot read the {what} at {path}: {error}"
    if info.type != pafs.FileType.File:
        return f"has no {what} at {path}"
    return f"has another {what} at {path}: {info.size:,} bytes, not {size:,}" if info.size != size else None
