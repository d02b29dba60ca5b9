"""Documents with the lowest and the highest scores, for a report: their texts and what was found in them."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow.parquet as pq

from pipelines.scoring.inputs.units import SOURCE_FILE, SOURCE_ROW
from pipelines.scoring.report.page import MARKED
from pipelines.scoring.schemas import column_at, result_fields, top_level
from pipelines.scoring.storage import Place

SNIPPET_CHARS = 1500
NUM_LABELS = 5


def read_document(
    output: Place, score: Mapping[str, Any], prefixes: tuple[str, str], part: str, file: str, row: int, value: float
) -> dict[str, Any]:
    """One document of the file `part`, by its origin, with what a score found in it.

    score: its task and input columns, as in the run's fingerprint. prefixes: of the names of the origin's columns, and
    of the score's own. value: what ranked it.
    """
    of_origin, of_score = prefixes
    place = output.child(part)
    with pq.ParquetFile(place.path, filesystem=place.filesystem) as stored:
        present = stored.schema_arrow.names
        names = [top_level(name, present) for name in score["input_columns"].values()]
        own = [f"{of_score}{field.name}" for field in result_fields(score["task"])]
        names += [*own, of_origin + SOURCE_FILE, of_origin + SOURCE_ROW]
        table = stored.read(columns=[name for name in dict.fromkeys(names) if name in present])
    origins = zip(table[of_origin + SOURCE_FILE].to_pylist(), table[of_origin + SOURCE_ROW].to_pylist(), strict=True)
    table = table.slice(list(origins).index((file, row)), 1)  # Arrow cannot filter every type, such as string_view
    (whole,) = table.to_pylist()
    found = {name.removeprefix(of_score): value for name, value in whole.items() if name in own}
    given = {
        role: column_at(table, name)[0].as_py()
        for role, name in score["input_columns"].items()
        if top_level(name, present) in table.column_names
    }
    document: dict[str, Any] = {"file": file, "row": row, "score": value}
    marked = list(found.get("entities") or ())
    if found.get("answer"):
        marked = [{"entity_group": "answer", **{name: found[name] for name in ("score", "start", "end")}}]
    for role, text in given.items():
        if isinstance(text, str):
            begin = _snippet_start(text, marked) if role in MARKED else 0
            document[role] = ("…" if begin else "") + text[begin : begin + SNIPPET_CHARS]
            document[role] += "…" if len(text) > begin + SNIPPET_CHARS else ""
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
