"""Labelled rows for the heads that `pipelines.finetune` trains: train.parquet, validation.parquet and test.parquet.

    python -m checkpoints.head_data --task question-answering --corpus out/corpus-all.parquet --output out/answers

Rows are made document by document and split like them (`corpus_split`): no test document has been read by any head, nor
by the encoder they start from. What a row is, and where its label comes from, stands in the module of the task.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from checkpoints import docstrings, hidden_lines, next_passages
from checkpoints.corpus_split import PARTS, Document, read_documents

Rows = Callable[[Document, list[Document], random.Random], Iterator[dict[str, Any]]]

MOST_VALIDATION_ROWS = 300  # they are read again and again while a head is trained


def whole_text(document: Document, others: list[Document], draw: random.Random) -> Iterator[dict[str, Any]]:
    """For language models: the document as it is."""
    yield {"text": document.text}


ROWS: dict[str, Rows] = {
    "fill-mask": whole_text,
    "text-generation": whole_text,
    "text-classification": hidden_lines.rows,
    "multiple-choice": next_passages.rows,
    "question-answering": docstrings.rows,
}


def rows_of(task: str, documents: list[Document]) -> list[dict[str, Any]]:
    """All rows of some documents, each with its `path`; the same for the same documents."""
    rows = []
    for document in documents:
        draw = random.Random(document.path)
        rows += [{"path": document.path, **row} for row in ROWS[task](document, documents, draw)]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--task", choices=list(ROWS), required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    seen: set[str] = set()
    for part in PARTS:
        rows = rows_of(arguments.task, read_documents(arguments.corpus, part))
        # Files differ and still share passages, such as a licence: those stand in one part only.
        rows = [row for row in rows if (row.get("text") or row.get("prompt") or row.get("context")) not in seen]
        seen |= {row.get("text") or row.get("prompt") or row.get("context") for row in rows}
        if part == "validation" and len(rows) > MOST_VALIDATION_ROWS:
            rows = random.Random(0).sample(rows, MOST_VALIDATION_ROWS)
        pq.write_table(pa.Table.from_pylist(rows), arguments.output / f"{part}.parquet")
        print(f"{part}: {len(rows):,} rows")


if __name__ == "__main__":
    main()
