"""The report of a job: what its output directory holds (JSON); `report.page` makes the page.

Every finished file carries a summary of its rows in its footer; the report adds those up, so it costs a footer a
file whatever the number of rows, covers all starts of a job that was resumed, and can be made again at any time.

Does not know what a task's columns mean: `report.summaries` does.
"""

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from bigbird.errors import InputError
from pipelines.scoring.ledger.parts import Footer, read_parts
from pipelines.scoring.ledger.records import RUN_FILE, read_record
from pipelines.scoring.report.cost import PAUSE_S, check_price, costs
from pipelines.scoring.report.documents import read_document
from pipelines.scoring.report.page import page
from pipelines.scoring.report.summaries import NUM_EXTREMES, SCORES, of_score
from pipelines.scoring.storage import Place, read_whole, write_whole

# Beside the output, which holds nothing but Parquet: some readers refuse a folder of several formats.
REPORT_SUFFIXES = (".report.html", ".report.json")
NUM_TIME_BINS = 60


def write_report(
    output: Place,
    parts: Mapping[str, Footer] | None = None,
    *,
    documents: int = 0,
    starting_s: float | None = None,
    price_per_hour: float | None = None,
) -> dict[str, Any]:
    """Write `OUTPUT.report.html` and `OUTPUT.report.json` beside an output directory and return the report.

    documents: how many of those with the lowest and the highest scores are shown with their texts, at most
    NUM_EXTREMES; nobody who may read a report need be allowed to read the corpus. starting_s: how long the job took
    until its first rows were scored. price_per_hour: of one machine. Costs these texts, and the footers of all finished
    files where they are not given.
    """
    parts = read_parts(output) if parts is None else parts
    report = collect(output, parts, documents=documents) | {"starting_s": starting_s}
    report["costs"] = costs(output, parts, starting_s=starting_s, price_per_hour=price_per_hour)
    html, plain = map(output.beside, REPORT_SUFFIXES)
    write_whole(plain, json.dumps(report, indent=1).encode())
    write_whole(html, page(report).encode())
    return report


def redraw_report(output: Place, *, documents: int = 0, price_per_hour: float | None = None) -> dict[str, Any]:
    """Write the report of an output again, from its ledger. Raises InputError where a job wrote none there."""
    if not 0 <= documents <= NUM_EXTREMES:
        raise InputError(f"report_documents is {documents}, expected 0 to {NUM_EXTREMES}")
    check_price(price_per_hour)
    if read_record(output, RUN_FILE) is None:
        raise InputError(f"{output.name!r} is not the output of a scoring job")
    place = output.beside(REPORT_SUFFIXES[1])
    try:
        former = dict(json.loads(read_whole(place) or b"{}"))
    except (ValueError, TypeError) as error:
        raise InputError(f"{place.name!r} is damaged: {error}; delete it to draw the report without it") from error
    price = former.get("costs", {}).get("price_per_hour") if price_per_hour is None else price_per_hour
    return write_report(output, documents=documents, starting_s=former.get("starting_s"), price_per_hour=price)


def collect(output: Place, parts: Mapping[str, Footer] | None = None, *, documents: int = 0) -> dict[str, Any]:
    """The report of an output directory: counts, throughput over time, actors; and of each score its distributions and
    the documents at its ends, under `sections` by the scores' names, or beside the rest where the only one has none."""
    run = (read_record(output, RUN_FILE) or {}).get("fingerprint", {})
    parts = read_parts(output) if parts is None else parts
    summaries = [footer.summary for footer in parts.values()]
    sections = {
        name: _section(output, score, (run.get("prefix", ""), name), parts, documents)
        for name, score in run.get("scores", {"": run}).items()
    }
    return {
        "output": output.name,
        "files": len(parts),
        "documents": sum(summary["documents"] for summary in summaries),
        "tokens": sum(summary["tokens"] for summary in summaries),
        **_errors(summaries),
        "throughput": _throughput(summaries),
        "actors": _actors(summaries),
        **sections.get("", {"sections": sections}),
    }


def _section(
    output: Place, score: Mapping[str, Any], names: tuple[str, str], parts: Mapping[str, Footer], documents: int
) -> dict[str, Any]:
    """What the report says of one score. score: as in the run's fingerprint. names: the run's prefix, the score's."""
    prefix, name = names
    prefixes = (prefix, f"{prefix}{name}_" if name else prefix)
    of_parts = {part: of_score(footer.summary, name) for part, footer in parts.items()}
    summaries = list(of_parts.values())
    task = score.get("task", "")
    what, low, high = SCORES.get(task, ("", "", ""))
    return {
        "task": task,
        **{key: sum(summary[key] for summary in summaries) for key in ("tokens", "windows", "truncated")},
        **_errors(summaries),
        "tokens_per_document": _bins(summaries, "token_bins", lambda b: (2 ** (b - 1), 2**b - 1)),
        "score": what,
        "scores": _bins(summaries, "score_bins", lambda b: _score_bounds(b, summaries[0]["score_step"])),
        "documents_at_the_ends": [
            {
                "end": end,
                "documents": [
                    read_document(output, score, prefixes, *entry) for entry in _ends(of_parts, key, sign, documents)
                ],
            }
            for end, key, sign in ((low, "lowest", 1), (high, "highest", -1))
            if end and documents
        ],
    }


def _errors(summaries: list[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "errors": dict(sum((Counter(summary["errors"]) for summary in summaries), Counter())),
        "retryable": sum(summary["retryable"] for summary in summaries),
    }


def _ends(summaries: Mapping[str, Mapping[str, Any]], key: str, sign: int, most: int) -> list[tuple[Any, ...]]:
    every = [(part, *entry) for part, summary in summaries.items() for entry in summary[key]]
    return sorted(every, key=lambda entry: (sign * entry[3], entry[1], entry[2]))[:most]


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
