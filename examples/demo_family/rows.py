"""Labelled rows for one task: train.parquet, validation.parquet and test.parquet.

    python -m examples.demo_family.rows --task question-answering --corpus out/corpus.parquet --output out/answers

Rows are made document by document and split as documents are (`corpus_split`). Each task's module says what a row is
and where its label comes from.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from examples.demo_family import docstrings, hidden_lines, next_passages
from examples.demo_family.code_entities import Index, entities
from examples.demo_family.corpus_split import PARTS, Document, read_documents

Row = dict[str, Any]

MAX_VALIDATION_ROWS = 300  # fine-tuning reads them at every evaluation


def whole_text(document: Document, others: list[Document], draw: random.Random) -> Iterator[Row]:
    """For language models: the document as it is."""
    yield {"text": document.text}


ROWS: dict[str, Callable[[Document, list[Document], random.Random], Iterator[Row]]] = {
    "masked-lm": whole_text,
    "causal-lm": whole_text,
    "text-classification": hidden_lines.rows,
    "multiple-choice": next_passages.rows,
    "question-answering": docstrings.rows,
}
TASKS = ("token-classification", *ROWS)


def rows_of(task: str, documents: list[Document], index: Index | None = None) -> list[Row]:
    """All rows of some documents, each with its `path`; the same for the same documents.

    `index` resolves imported names, for token-classification alone. Sources that do not parse are left out there.
    """
    rows = []
    for document in documents:
        if task != "token-classification":
            made: Iterator[Row] = ROWS[task](document, documents, random.Random(document.path))
            rows += [{"path": document.path, **row} for row in made]
        elif document.kind == "source":
            try:
                found = entities(document.text, document.path, index)
            except (SyntaxError, ValueError, RecursionError):
                continue
            rows.append({"path": document.path, "text": document.text, "entities": [asdict(e) for e in found]})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    parts = {part: read_documents(arguments.corpus, part) for part in PARTS}
    # What `Path` is in `from pathlib import Path` is a fact, in whichever part pathlib is.
    index = Index((document.path, document.text) for documents in parts.values() for document in documents)
    seen: set[str] = set()
    for part, documents in parts.items():
        # Files that differ may still share passages, such as a licence: each passage stands in one part only.
        rows = [row for row in rows_of(arguments.task, documents, index) if _text(row) not in seen]
        seen |= {_text(row) for row in rows}
        if part == "validation" and len(rows) > MAX_VALIDATION_ROWS:
            rows = random.Random(0).sample(rows, MAX_VALIDATION_ROWS)
        pq.write_table(pa.Table.from_pylist(rows), arguments.output / f"{part}.parquet")
        print(f"{part}: {len(rows):,} rows")


def _text(row: Row) -> str:
    return row.get("text") or row.get("prompt") or row["context"]


if __name__ == "__main__":
    main()
