"""Label a corpus of Python sources with its code entities: three Parquet files a token classifier trains on.

    python -m checkpoints.label_corpus --corpus out/corpus.parquet --output out/code-entities

Writes `train.parquet`, `validation.parquet`, `test.parquet`, split by `corpus_split`, with the columns `path`, `text`
and `entities`: a list of {start, end, label}, characters of the text. Texts that do not parse, and documents that are
no Python source, are left out and counted.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from checkpoints.code_entities import Index, entities
from checkpoints.corpus_split import PARTS, read_documents

ENTITY = pa.struct([("start", pa.int32()), ("end", pa.int32()), ("label", pa.string())])
SCHEMA = pa.schema([("path", pa.string()), ("text", pa.string()), ("entities", pa.list_(ENTITY))])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()

    parts = {part: [d for d in read_documents(arguments.corpus, part) if d.kind == "source"] for part in PARTS}
    # Names are resolved across the split: what `Path` is in `from pathlib import Path` is a fact, wherever pathlib is.
    index = Index((document.path, document.text) for documents in parts.values() for document in documents)
    arguments.output.mkdir(parents=True, exist_ok=True)
    for part, documents in parts.items():
        rows, counts, num_unparsable = [], Counter[str](), 0
        for document in documents:
            try:
                found = entities(document.text, document.path, index)
            except (SyntaxError, ValueError, RecursionError):
                num_unparsable += 1
                continue
            counts.update(entity.label for entity in found)
            rows.append({"path": document.path, "text": document.text, "entities": [asdict(e) for e in found]})
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), arguments.output / f"{part}.parquet")
        by_label = ", ".join(f"{label} {count:,}" for label, count in sorted(counts.items()))
        print(f"{part}: {len(rows):,} sources ({num_unparsable} do not parse); {by_label}")


if __name__ == "__main__":
    main()
