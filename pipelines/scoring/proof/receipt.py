"""The receipt of a job, `OUTPUT.receipt.json`: what the output was made of, and digests of what it is.

    models       of each score: where it is, SHA-256 of all its files together, of each, and of its tokenizer
    fingerprint  task, options, columns: what makes two starts one run; `run` is its SHA-256
    inputs       the listing: name, size, mtime_ns and rows of each file
    parts        name, SHA-256, size and rows of each file of the output
    code         versions, and SHA-256 of the sources
    openlineage  the same as an event that OpenLineage's tools take (`proof.lineage`)

No etags of object stores: Arrow's filesystems give size and time only.
"""

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa

import bigbird
import pipelines
from bigbird.errors import InputError
from bigbird.loading.hub import resolve
from pipelines.scoring.checks import model_files
from pipelines.scoring.inputs.listing import Listing
from pipelines.scoring.ledger.ledger import Ledger
from pipelines.scoring.ledger.parts import digest
from pipelines.scoring.ledger.records import RUN_FILE, read_record
from pipelines.scoring.plan import Job, Plan
from pipelines.scoring.proof.lineage import complete_event
from pipelines.scoring.schemas import output_schema
from pipelines.scoring.storage import Place, locate, read_whole, write_whole

RECEIPT_SUFFIX = ".receipt.json"
VERSION = 1

_TOKENIZER_FILES = ("tokenizer", "special_tokens_map", "added_tokens", "spiece", "vocab", "merges")
_NAMES = ("finished", "run", "fingerprint", "models", "max_tokens_per_batch", "kept", "rows", "inputs", "parts")
_THREADS = 8
_CHUNK_BYTES = 1 << 22


def computed_with(job: Job, plan: Plan) -> dict[str, Any]:
    """What a start computes with: code, models, and the inputs as they are named.

    Read before anything is computed: the folder that a submitted job starts in may be gone when it ends.
    """
    return {
        "code": _code(),
        "models": [_model(score) for score in plan.stage.scores],
        "inputs": [_absolute(path) for path in job.inputs],
    }


def write_receipt(
    job: Job, plan: Plan, ledger: Ledger, start: Mapping[str, Any], digests: Mapping[str, str]
) -> dict[str, Any]:
    """Write the receipt of a job that is done, or done up to its limit, and return it.

    start: `computed_with` of this start. digests: of the parts that this start wrote. Those of earlier starts are
    taken from the receipt before, so that a file that changed since is not vouched for, or else from the files.
    """
    listing, output = plan.listing, ledger.output
    run = read_record(output, RUN_FILE)
    inputs = [
        {"name": file.name, "size": file.size, "mtime_ns": file.mtime_ns, "rows": file.rows} for file in listing.files
    ]
    parts = _parts(ledger, digests)
    receipt: dict[str, Any] = {
        "version": VERSION,
        "finished": datetime.now(UTC).isoformat(),
        "output": output.name,
        "run": ledger.run,
        "fingerprint": run["fingerprint"],
        "code": start["code"],
        "models": start["models"],
        "max_tokens_per_batch": job.options.max_tokens_per_batch,
        "limit": job.limit,
        "kept": _kept(plan),
        "rows": ledger.num_done,
        "inputs": {"paths": start["inputs"], "sha256": digest(inputs), "files": inputs},
        "parts": parts,
        "parts_sha256": digest({part["name"]: part["sha256"] for part in parts}),
    }
    receipt["openlineage"] = complete_event(receipt, listing.schema, plan.schema)
    write_whole(output.beside(RECEIPT_SUFFIX), json.dumps(receipt, indent=1).encode())
    return receipt


def read_receipt(output: Place) -> dict[str, Any] | None:
    """The receipt of an output, None where there is none. Raises InputError for one that cannot be read."""
    place = output.beside(RECEIPT_SUFFIX)
    content = read_whole(place)
    if content is None:
        return None
    try:
        receipt: dict[str, Any] = json.loads(content)
        found, lacks = receipt["version"], [name for name in _NAMES if name not in receipt]
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(f"receipt {place.name!r} is damaged: {error!r}") from error
    if found != VERSION:
        raise InputError(f"receipt {place.name!r} has version {found!r}, expected {VERSION}")
    if lacks:
        raise InputError(f"receipt {place.name!r} is damaged: it has no {lacks[0]!r}")
    return receipt


def file_digest(place: Place) -> str:
    """SHA-256 of a file."""
    hashed = hashlib.sha256()
    with place.filesystem.open_input_stream(place.path, compression=None) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            hashed.update(chunk)
    return hashed.hexdigest()


def part_digests(output: Place, names: Sequence[str]) -> dict[str, str]:
    """SHA-256 of part files, by their names."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(names, pool.map(lambda name: file_digest(output.child(name)), names), strict=True))


def changed_inputs(receipt: Mapping[str, Any], listing: Listing) -> tuple[list[str], list[str]]:
    """What differs between the inputs of a receipt and those that are there, a line each; and what came since."""
    present = {file.name: file for file in listing.files}
    known = {entry["name"]: entry for entry in receipt["inputs"]["files"]}
    differences = []
    for name, entry in known.items():
        file = present.get(name)
        if file is None:
            differences.append(f"input {name} is not there any more")
            continue
        for what in ("size", "rows", "mtime_ns"):
            if getattr(file, what) != entry[what]:
                differences.append(f"input {name} changed: {what} was {entry[what]}, is {getattr(file, what)}")
                break
    return differences, [f"input {name} came since" for name in present if name not in known]


def _parts(ledger: Ledger, digests: Mapping[str, str]) -> list[dict[str, Any]]:
    """Name, SHA-256, size and rows of each file of the output.

    What the receipt before says of a file holds until a start writes the file again: its footer tells when.
    """
    output = ledger.output
    try:
        former = read_receipt(output)
    except InputError:  # as where there is none
        former = None
    known, finished = {}, 0.0
    if former is not None and former["run"] == ledger.run:
        known = {part["name"]: part["sha256"] for part in former["parts"]}
        finished = datetime.fromisoformat(former["finished"]).timestamp()
    found = {name: known[name] for name, footer in ledger.parts.items() if name in known and footer.written < finished}
    found |= {name: digest for name, digest in digests.items() if name in ledger.parts}
    found |= part_digests(output, [name for name in ledger.parts if name not in found])
    infos = output.filesystem.get_file_info([output.child(name).path for name in sorted(ledger.parts)])
    return [
        {"name": name, "sha256": found[name], "size": info.size, "rows": ledger.parts[name].num_rows}
        for name, info in zip(sorted(ledger.parts), infos, strict=True)
    ]


def _model(score: Any) -> dict[str, Any]:
    """One score's model: where it is loaded from, and digests. Of a stand-in without files, only what it says."""
    told = {"name": score.name, "task": score.task, "location": score.location, "sha256": score.digest}
    if score.location is None:
        return told
    if Path(score.location).is_dir():
        told["location"] = str(Path(score.location).resolve())
    files = {path.name: file_digest(locate(str(path))) for path in model_files(Path(resolve(score.location)))}
    tokenizer = {name: found for name, found in files.items() if name.startswith(_TOKENIZER_FILES)}
    return told | {"tokenizer_sha256": digest(tokenizer), "files": files}


def _kept(plan: Plan) -> list[str]:
    own = set(output_schema(pa.schema([]), plan.stage.results, plan.stage.prefix).names)
    return [name for name in plan.schema.names if name not in own]


def _absolute(path: str) -> str:
    """An input as it was named, so that it is found from anywhere. Credentials in a URI are left out."""
    return path if "://" not in path and Path(path).is_absolute() else locate(path).name


def _code() -> dict[str, str]:
    hashed = hashlib.sha256()
    for package in (bigbird, pipelines):
        folder = Path(package.__file__ or "").parent
        for path in sorted(folder.rglob("*.py")):
            hashed.update(f"{path.relative_to(folder.parent)}\n".encode() + path.read_bytes())
    versions = {name: version(name) for name in ("torch", "ray", "pyarrow")}
    return {"sources_sha256": hashed.hexdigest(), "python": platform.python_version(), **versions}
