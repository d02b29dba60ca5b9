"""What the footer of a finished file says of its rows: counts, distributions, the rows at either end.

Of one score without a name it is that score's summary. Of several it is one for the file as a whole, with each score's
own under `scores`; kinds of errors have the name of their score before them.

Knows the result columns of each task, and nothing of how they came about.
"""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.scoring.inputs.units import SOURCE_FILE, SOURCE_ROW

NUM_EXTREMES = 3
FIRST_ERROR_CHARS = 300

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


def join_scores(by_score: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The summary of a file from those of its scores, by their names."""
    if list(by_score) == [""]:
        return dict(by_score[""])
    return {
        "documents": max(summary["documents"] for summary in by_score.values()),
        "tokens": max(summary["tokens"] for summary in by_score.values()),  # scores read the same texts, most often
        "retryable": sum(summary["retryable"] for summary in by_score.values()),
        **{
            what: {
                f"{name}: {kind}": value for name, summary in by_score.items() for kind, value in summary[what].items()
            }
            for what in ("errors", "first_errors")
        },
        "scores": dict(by_score),
    }


def of_score(summary: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """What a file's summary says of one score; name: "" of one without."""
    own: Mapping[str, Any] = summary["scores"][name] if name else summary
    return own


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
