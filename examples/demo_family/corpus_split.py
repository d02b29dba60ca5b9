"""The corpus in three parts, train, validation and test, split by what a file contains.

A document's part depends on the SHA-256 of its text and on nothing else, so two copies of a file never land on
both sides of the split, and adding files never moves the others.
"""

from __future__ import annotations

import ast
import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

PARTS = ("train", "validation", "test")
NUM_BUCKETS = 20  # one bucket in twenty (5 %) for validation, one for test


@dataclass(frozen=True, kw_only=True)
class Document:
    path: str
    kind: str  # "source" or "topic"
    text: str


def part_of(text: str) -> str:
    """The part (`PARTS`) the document with this text belongs to."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    bucket = int.from_bytes(digest[:4], "big") % NUM_BUCKETS
    return {0: "test", 1: "validation"}.get(bucket, "train")


def read_documents(parquet: Path, part: str) -> list[Document]:
    """The documents of one part, each distinct text once, in the order of their paths."""
    table = pq.read_table(parquet, columns=["path", "kind", "text"])
    documents: dict[str, Document] = {}
    for row in sorted(table.to_pylist(), key=lambda row: str(row["path"])):
        text = row["text"]
        if text and text.strip() and text not in documents and part_of(text) == part:
            documents[text] = Document(path=row["path"], kind=row["kind"], text=text)
    return list(documents.values())


def parse(text: str) -> ast.Module:
    """The syntax tree of a Python source. Raises SyntaxError, ValueError or RecursionError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about the source itself, such as an invalid escape
        return ast.parse(text)
