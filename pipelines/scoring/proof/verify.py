"""Does an output hold what its receipt says, and do its rows come out the same when they are scored again?

    parts      every file's SHA-256, its rows against its footer, the footers against the receipt
    sources    the models' digests; each input's size, rows and time
    rows       some, drawn at random, scored again in other batches and another order, or by a live endpoint

What differs is told, a line each; nothing is changed.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bigbird.errors import InputError
from bigbird.predictors import OPTIONS
from pipelines.command_line import counted
from pipelines.scoring.actors.pool import ScoreOptions
from pipelines.scoring.actors.score_rows import Stage
from pipelines.scoring.actors.stages import make_stage
from pipelines.scoring.checks import ModelInfo
from pipelines.scoring.inputs.listing import list_inputs
from pipelines.scoring.inputs.units import SOURCE_FILE, SOURCE_ROW
from pipelines.scoring.ledger.parts import PART_PREFIX, Footer, digest, footer_in, refuse_doubles
from pipelines.scoring.ledger.ranges import merge_ranges, ranges_of
from pipelines.scoring.ledger.records import LEASE_FILE, RUN_FILE, read_record
from pipelines.scoring.proof.compare import TOLERANCES
from pipelines.scoring.proof.receipt import RECEIPT_SUFFIX, changed_inputs, read_receipt
from pipelines.scoring.proof.rows import Answer, compare_rows, draw_rows, scored_alone
from pipelines.scoring.schemas import InputColumns
from pipelines.scoring.scores import Score
from pipelines.scoring.storage import Place, locate, names_in

_THREADS = 8
_MOST_NAMED = 3


@dataclass
class Proof:
    """What was found. differs: a line each, none where the output is proved. notes: what a person should know."""

    rows: int = 0
    parts: int = 0
    sampled: int = 0
    tolerance: float = 0.0
    differs: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """For a person, where nothing differs."""
        parts = f"{counted(self.parts, 'file')} with {counted(self.rows, 'row')}"
        said = f"{parts}, the models and the inputs are those of the receipt"
        again = f"{counted(self.sampled, 'row')} scored again agree within {self.tolerance:g}"
        return "\n".join([*self.notes, f"proved: {said}; {again}"])


def verify(
    output: str,
    *,
    sample: int,
    seed: int,
    load: Callable[..., Any],
    inspect: Callable[..., ModelInfo],
    model: str | None = None,
    inputs: Sequence[str] | None = None,
    answered_by: Callable[[Stage], Answer] | None = None,
) -> Proof:
    """Prove an output.

    sample: rows to score again. model, inputs: where they are now, if elsewhere. answered_by: makes what asks a server
    in the place of the model here. Raises InputError: no receipt, or an output that is being written; CheckpointError:
    no model at its place.
    """
    place = locate(output)
    receipt = read_receipt(place)
    if receipt is None:
        receipt_name = place.beside(RECEIPT_SUFFIX).name
        raise InputError(f"{place.name!r} has no receipt: a job that ends leaves it at {receipt_name!r}")
    if sample < 0:
        raise InputError(f"sample is {sample}, expected at least 0")
    if answered_by and not sample:
        raise InputError("an endpoint is asked for rows, but sample is 0")
    tolerance = TOLERANCES[receipt["fingerprint"]["dtype"]]
    proof = Proof(rows=receipt["rows"], parts=len(receipt["parts"]), tolerance=tolerance)
    if read_record(place, LEASE_FILE) is not None:
        proof.notes.append("a job writes here, or was killed: what it wrote since its receipt differs from that")
    footers = _check_parts(place, receipt, proof)
    stage = _stage(receipt, model, load, inspect)
    same_model = _check_models(receipt, stage, proof)
    try:
        listing = list_inputs(inputs or receipt["inputs"]["paths"], read=stage.columns, keep=receipt["kept"])
    except InputError as error:  # gone, or nothing that this output could have been made of
        proof.differs.append(str(error))
        return proof
    changed, came = changed_inputs(receipt, listing)
    proof.differs += changed
    proof.notes += came[:_MOST_NAMED]
    if len(came) > _MOST_NAMED:
        proof.notes.append(f"and {len(came) - _MOST_NAMED:,} more inputs that came since")
    if sample and footers and (same_model or answered_by):
        answer = answered_by(stage) if answered_by else scored_alone(receipt, stage)
        drawn = draw_rows(footers, listing, sample, seed)
        proof.sampled, found = compare_rows(place, listing, receipt, stage, answer, drawn, tolerance)
        proof.differs += found
        if proof.sampled < len(drawn):
            failed = len(drawn) - proof.sampled
            proof.notes.append(
                f"not compared: {counted(failed, 'row')} that failed for want of memory, a file or a process"
            )
    return proof


def _check_parts(output: Place, receipt: Mapping[str, Any], proof: Proof) -> dict[str, Footer]:
    """Footers of the parts that can be read, once every part was looked at."""
    run = read_record(output, RUN_FILE)
    if run is None or run["fingerprint"] != receipt["fingerprint"] or digest(run["fingerprint"]) != receipt["run"]:
        proof.differs.append("the options of the output are not those of the receipt")
    present = [name for name in names_in(output) if name.startswith(PART_PREFIX)]
    known = {part["name"]: part for part in receipt["parts"]}
    footers: dict[str, Footer] = {}
    proof.differs += [f"{name} is missing" for name in known if name not in present]
    proof.differs += [f"{name} is not in the receipt" for name in present if name not in known]
    prefix = receipt["fingerprint"].get("prefix", "")
    with ThreadPoolExecutor(_THREADS) as pool:
        seen = dict(zip(present, pool.map(lambda name: _see(output.child(name), prefix), present), strict=True))
    for name, (sha256, footer, told) in seen.items():
        if name in known and sha256 != known[name]["sha256"]:
            proof.differs.append(f"{name} is not the file that was written: its SHA-256 is {sha256}")
        if isinstance(footer, Exception):
            proof.differs.append(f"{name} cannot be read: {footer}")
            continue
        if footer.run != receipt["run"]:
            proof.differs.append(f"{name} belongs to another run: another model, task or other options")
        if list(footer.ranges) == told:
            footers[name] = footer
        else:
            proof.differs.append(f"{name} holds other rows than its footer says")
    try:
        refuse_doubles(output, footers)
    except InputError as error:
        proof.differs.append(str(error))
    done = merge_ranges(range_ for footer in footers.values() for range_ in footer.ranges)
    rows = sum(stop - start for ranges in done.values() for start, stop in ranges)
    if rows != receipt["rows"]:
        proof.differs.append(f"{rows:,} rows are there, {receipt['rows']:,} in the receipt")
    return footers


def _see(place: Place, prefix: str) -> tuple[str | None, Footer | Exception, list[tuple[str, int, int]]]:
    """A part's SHA-256, its footer, and the rows that stand in it; an exception where it cannot be read."""
    origin, sha256 = [prefix + SOURCE_FILE, prefix + SOURCE_ROW], None
    try:
        with place.filesystem.open_input_file(place.path) as stream:
            content = stream.read_buffer()
        sha256 = hashlib.sha256(content).hexdigest()
        file = pq.ParquetFile(pa.BufferReader(content))
        rows = file.read(origin)
        return sha256, footer_in(file.metadata.metadata or {}, place), ranges_of(*(rows[name] for name in origin))
    except (ValueError, OSError, pa.ArrowException, KeyError) as error:
        return sha256, error, []


def _stage(
    receipt: Mapping[str, Any], model: str | None, load: Callable[..., Any], inspect: Callable[..., ModelInfo]
) -> Stage:
    """How the rows were scored. Raises InputError or CheckpointError where that cannot be had here."""
    begun = receipt["fingerprint"]
    begun_scores = begun.get("scores") or {"": begun}
    columns = {role: name for one in begun_scores.values() for role, name in one["input_columns"].items()}
    locations = {told["name"]: told["location"] for told in receipt["models"]}
    if model and len(locations) > 1:
        raise InputError("--model is for an output of one score; this one has several")
    scores = [
        Score(
            name=name,
            task=one["task"],
            model=model or locations[name] or name,
            options=OPTIONS[one["task"]](**{key: _tuples(value) for key, value in one["task_options"].items()}),
        )
        for name, one in begun_scores.items()
    ]
    options = ScoreOptions(columns=InputColumns(**columns), dtype=begun["dtype"], prefix=begun.get("prefix", ""))
    return make_stage(scores, options, load=load, inspect=inspect)[0]


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _check_models(receipt: Mapping[str, Any], stage: Stage, proof: Proof) -> bool:
    same = True
    for told, score in zip(receipt["models"], stage.scores, strict=True):
        if score.digest != told["sha256"]:
            proof.differs.append(f"the model at {score.location or score.model} is not that of the receipt")
            same = False
    return same
