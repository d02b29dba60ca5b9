"""The report of a job: what its output directory holds (JSON); `report.page` makes the page.

Every finished file carries a summary of its rows in its footer; the report adds those up, so it costs a footer a
file whatever the number of rows, covers all starts of a job that was resumed, and can be made again at any time.

Knows the result columns of each task, and nothing of how they came about.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bigbird.errors import InputError
from pipelines.scoring.inputs.units import SOURCE_FILE, SOURCE_ROW
from pipelines.scoring.ledger.parts import Footer, read_parts
from pipelines.scoring.ledger.records import RUN_FILE, read_record
from pipelines.scoring.report.page import MARKED, page
from pipelines.scoring.schemas import column_at, result_fields, top_level
from pipelines.scoring.storage import Place, read_whole, write_whole

# Beside the output, which holds nothing but Parquet: some readers refuse a folder of several formats.
REPORT_SUFFIXES = (".report.html", ".report.json")
NUM_EXTREMES = 3
NUM_TIME_BINS = 60
PAUSE_S = 60.0
SNIPPET_CHARS = 1500
FIRST_ERROR_CHARS = 300
NUM_LABELS = 5

# What is plotted and ranked for each task, and what its two ends are called.
SCORES = {
    "fill-mask": ("probability of the best candidate", "least confident", "most confident"),
    "masked-lm-scoring": ("negative log-likelihood, nats per token", "least surprising", "most surprising"),
    "token-classification": ("mean score of the entities", "least confident", "most confident"),
    "text-classification": ("score of the first label", "least confident", "most confident"),
    "zero-shot-classification": ("score of the first label", "least confident", "most confident"),
    "multiple-choice": ("score of the best choice", "least confident", "most confident"),
    "question-answering": ("score of the answer", "least confident", "most confident"),
    "text-generation": ("generated tokens", "shortest", "longest"),
}


def scores(table: pa.Table, task: str) -> np.ndarray:
    """One number a row, (rows,) float64, nan where a row has none."""
    if task == "masked-lm-scoring":
        values = table["nll"].to_pylist()
    elif task == "question-answering":
        values = table["score"].to_pylist()
    elif task == "text-generation":
        values = table["num_generated_tokens"].to_pylist()
    elif task == "token-classification":
        values = [_mean([entity["score"] for entity in row or ()]) for row in table["entities"].to_pylist()]
    elif task in ("text-classification", "zero-shot-classification"):
        values = [row[0]["score"] if row else None for row in table["labels"].to_pylist()]
    elif task == "multiple-choice":
        values = [max(row) if row else None for row in table["scores"].to_pylist()]
    elif task == "fill-mask":
        masks = table["masks"].to_pylist()
        values = [_mean([m["candidates"][0]["score"] for m in row or () if m["candidates"]]) for row in masks]
    else:
        values = [None] * table.num_rows
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)


def summarize(table: pa.Table, task: str) -> dict[str, Any]:
    """The summary of a finished file that its footer carries.

    token_bins: documents by binary logarithm of their tokens. score_bins: documents by score, in steps of
    `score_step`. lowest, highest: [file, row, score] of the documents at either end.
    """
    tokens = pc.fill_null(table["num_tokens"], 0).to_numpy()
    errors = Counter(error["type"] for error in table["error"].to_pylist() if error)
    retryable = pc.sum(pc.struct_field(table["error"], "retryable")).as_py() or 0
    summary: dict[str, Any] = {
        "documents": table.num_rows,
        "tokens": int(tokens.sum()),
        "windows": pc.sum(table["num_windows"]).as_py() or 0,
        "truncated": pc.sum(table["truncated"]).as_py() or 0,
        "errors": dict(errors),
        "first_errors": _first_errors(table),
        "retryable": int(retryable),
        "token_bins": dict(Counter(str(int(n).bit_length()) for n in tokens if n)),
    }
    values = scores(table, task)
    finite = np.flatnonzero(np.isfinite(values))
    step = 1.0 if task == "text-generation" else 0.25 if task == "masked-lm-scoring" else 0.05
    summary["score_step"] = step
    summary["score_bins"] = dict(Counter(str(math.floor(value / step)) for value in values[finite]))
    order = finite[np.argsort(values[finite], kind="stable")]
    for name, ends in (("lowest", order[:NUM_EXTREMES]), ("highest", order[::-1][:NUM_EXTREMES])):
        summary[name] = [
            [table[SOURCE_FILE][int(row)].as_py(), table[SOURCE_ROW][int(row)].as_py(), float(values[row])]
            for row in ends
        ]
    return summary


def _first_errors(table: pa.Table) -> dict[str, str]:
    """By kind of error, the first row of the table that has it, and what it says."""
    first: dict[str, str] = {}
    failed = table.select(["error", SOURCE_FILE, SOURCE_ROW]).filter(pc.is_valid(table["error"]))
    for row in failed.to_pylist():
        message = f"row {row[SOURCE_ROW]:,} of {row[SOURCE_FILE]}: {row['error']['message'][:FIRST_ERROR_CHARS]}"
        first.setdefault(row["error"]["type"], message)
    return first


def write_report(
    output: Place,
    parts: Mapping[str, Footer] | None = None,
    *,
    documents: int = 0,
    starting_s: float | None = None,
) -> dict[str, Any]:
    """Write `OUTPUT.report.html` and `OUTPUT.report.json` beside an output directory and return the report.

    documents: how many of those with the lowest and the highest scores are shown with their texts, at most
    NUM_EXTREMES; nobody who may read a report need be allowed to read the corpus. starting_s: how long the job took
    until its first rows were scored. Costs these texts, and the footers of all finished files where they are not given.
    """
    report = collect(output, parts, documents=documents) | {"starting_s": starting_s}
    html, plain = map(output.beside, REPORT_SUFFIXES)
    write_whole(plain, json.dumps(report, indent=1).encode())
    write_whole(html, page(report).encode())
    return report


def redraw_report(output: Place, *, documents: int = 0) -> dict[str, Any]:
    """Write the report of an output again, from its ledger. Raises InputError where a job wrote none there."""
    if not 0 <= documents <= NUM_EXTREMES:
        raise InputError(f"report_documents is {documents}, expected 0 to {NUM_EXTREMES}")
    if read_record(output, RUN_FILE) is None:
        raise InputError(f"{output.name!r} is not the output of a scoring job")
    former = json.loads(read_whole(output.beside(REPORT_SUFFIXES[1])) or b"{}")
    return write_report(output, documents=documents, starting_s=former.get("starting_s"))


def collect(output: Place, parts: Mapping[str, Footer] | None = None, *, documents: int = 0) -> dict[str, Any]:
    """The report of an output directory: counts, distributions, throughput over time, actors, documents at the ends."""
    run = (read_record(output, RUN_FILE) or {}).get("fingerprint", {})
    task = run.get("task", "")
    parts = read_parts(output) if parts is None else parts
    summaries = [footer.summary for footer in parts.values()]
    what, low, high = SCORES.get(task, ("", "", ""))
    return {
        "task": task,
        "output": output.name,
        "files": len(parts),
        **{key: sum(summary[key] for summary in summaries) for key in ("documents", "tokens", "windows", "truncated")},
        "errors": dict(sum((Counter(summary["errors"]) for summary in summaries), Counter())),
        "retryable": sum(summary["retryable"] for summary in summaries),
        "tokens_per_document": _bins(summaries, "token_bins", lambda b: (2 ** (b - 1), 2**b - 1)),
        "score": what,
        "scores": _bins(summaries, "score_bins", lambda b: _score_bounds(b, summaries[0]["score_step"])),
        "throughput": _throughput(summaries),
        "actors": _actors(summaries),
        "documents_at_the_ends": [
            {
                "end": name,
                "documents": [_document(output, run, parts, *entry) for entry in _ends(parts, key, sign, documents)],
            }
            for name, key, sign in ((low, "lowest", 1), (high, "highest", -1))
            if name and documents
        ],
    }


def _bins(summaries: list[Mapping[str, Any]], key: str, bounds: Any) -> list[dict[str, float]]:
    counts: Counter[int] = Counter()
    for summary in summaries:
        counts.update({int(number): count for number, count in summary[key].items()})
    if not counts:
        return []
    numbers = range(min(counts), max(counts) + 1)
    return [dict(zip(("from", "to"), bounds(n), strict=True)) | {"documents": counts[n]} for n in numbers]


def _score_bounds(number: int, step: float) -> tuple[float, float]:
    return round(number * step, 6), round((number + 1) * step, 6)


def _throughput(summaries: list[Mapping[str, Any]]) -> list[dict[str, float]]:
    """Tokens a second while the job ran, a file's tokens spread evenly over the time it took.

    Time in which no file was in the making for long lies between two starts, and is left out.
    """
    if not summaries:
        return []
    spans: list[tuple[float, float, int]] = []
    left_out = latest = min(summary["started"] for summary in summaries)
    for summary in sorted(summaries, key=lambda summary: summary["started"]):
        start, stop = summary["started"], max(summary["finished"], summary["started"] + 1e-3)
        if start - latest > PAUSE_S:
            left_out += start - latest
        spans.append((start - left_out, stop - left_out, summary["tokens"]))
        latest = max(latest, stop)
    width = (latest - left_out) / NUM_TIME_BINS
    edges = width * np.arange(NUM_TIME_BINS + 1)
    tokens = np.zeros(NUM_TIME_BINS)
    for start, stop, count in spans:
        overlap = np.clip(np.minimum(edges[1:], stop) - np.maximum(edges[:-1], start), 0, None)
        tokens += count * overlap / (stop - start)
    return [
        {"after_s": round(float(edge), 3), "tokens_per_s": round(float(count / width), 1)}
        for edge, count in zip(edges[:-1], tokens, strict=True)
    ]


def _actors(summaries: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What each process did: files, tokens, and the share of its time from first to last that it was scoring."""
    by_worker: dict[str, list[Mapping[str, Any]]] = {}
    for summary in summaries:
        by_worker.setdefault(summary["worker"], []).append(summary)
    actors = []
    for worker, done in sorted(by_worker.items()):
        life = max(s["finished"] for s in done) - min(s["started"] for s in done)
        busy = sum(s["finished"] - s["started"] for s in done)
        share = round(busy / life, 4) if life > 0 else 1.0
        actors.append({"actor": worker, "files": len(done), "tokens": sum(s["tokens"] for s in done), "busy": share})
    return actors


def _ends(parts: Mapping[str, Footer], key: str, sign: int, most: int) -> list[tuple[str, str, int, float]]:
    every = [(name, *entry) for name, footer in parts.items() for entry in footer.summary[key]]
    return sorted(every, key=lambda entry: (sign * entry[3], entry[1], entry[2]))[:most]


def _result_names(task: str) -> list[str]:
    return [field.name for field in result_fields(task)]


def _document(
    output: Place, run: Mapping[str, Any], parts: Mapping[str, Footer], part: str, file: str, row: int, score: float
) -> dict[str, Any]:
    place, prefix = output.child(part), run.get("prefix", "")
    with pq.ParquetFile(place.path, filesystem=place.filesystem) as stored:
        present = stored.schema_arrow.names
        names = [top_level(name, present) for name in run["input_columns"].values()]
        own = [f"{prefix}{name}" for name in (*_result_names(run["task"]), SOURCE_FILE, SOURCE_ROW)]
        table = stored.read(columns=[name for name in dict.fromkeys([*names, *own]) if name in present])
    origins = zip(table[prefix + SOURCE_FILE].to_pylist(), table[prefix + SOURCE_ROW].to_pylist(), strict=True)
    table = table.slice(list(origins).index((file, row)), 1)  # Arrow cannot filter every type, such as string_view
    (whole,) = table.to_pylist()
    found = {name.removeprefix(prefix): value for name, value in whole.items() if name in own}
    given = {
        role: column_at(table, name)[0].as_py()
        for role, name in run["input_columns"].items()
        if top_level(name, present) in table.column_names
    }
    document: dict[str, Any] = {"file": file, "row": row, "score": score}
    marked = list(found.get("entities") or ())
    if found.get("answer"):
        marked = [{"entity_group": "answer", **{name: found[name] for name in ("score", "start", "end")}}]
    for role, value in given.items():
        if isinstance(value, str):
            begin = _snippet_start(value, marked) if role in MARKED else 0
            document[role] = ("…" if begin else "") + value[begin : begin + SNIPPET_CHARS]
            document[role] += "…" if len(value) > begin + SNIPPET_CHARS else ""
            if role in MARKED and marked:
                document["entities"] = _within(marked, begin, len(document[role]))
    for name in ("answer", "generated_text"):
        if found.get(name):
            document[name] = found[name][:SNIPPET_CHARS]
    labels = found.get("labels") or []
    for mask in found.get("masks") or ():
        labels += [{"label": best["token_str"], "score": best["score"]} for best in mask["candidates"][:1]]
    if given.get("choices") and found.get("scores"):
        pairs = zip(given["choices"], found["scores"], strict=True)
        labels = [{"label": choice[:SNIPPET_CHARS], "score": score} for choice, score in pairs]
    if labels:
        document["labels"] = labels[:NUM_LABELS]
    return document


def _snippet_start(text: str, marked: Sequence[Mapping[str, Any]]) -> int:
    """Where to cut a text in which only one thing is marked, and that far behind: a little before it."""
    if len(marked) != 1 or marked[0]["end"] <= SNIPPET_CHARS:
        return 0
    return max(0, min(int(marked[0]["start"]) - SNIPPET_CHARS // 3, len(text) - SNIPPET_CHARS))


def _within(marked: Sequence[Mapping[str, Any]], begin: int, length: int) -> list[dict[str, Any]]:
    """The spans as they lie in a snippet that begins at `begin`, where an ellipsis stands for what is before."""
    shift = begin - 1 if begin else 0
    moved = [{**span, "start": span["start"] - shift, "end": span["end"] - shift} for span in marked]
    return [span for span in moved if span["start"] >= 0 and span["end"] <= length]


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
