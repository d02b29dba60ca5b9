"""What bfloat16 and int8 cost in accuracy on the shipped checkpoints.

    python -m benchmarks.precision [--documents 40]

Accuracy: masked tokens guessed right and entities found, on held-out documents, against float32's own answers.
"""

import argparse
from pathlib import Path

import numpy as np

from bigbird import load_predictor
from checkpoints.corpus_split import part_of
from pipelines.corpus import Document, python_documents

CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"
DTYPES = ("float32", "bfloat16", "int8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=40)
    options = parser.parse_args()
    texts = [d.text for d in python_documents() if isinstance(d, Document) and part_of(d.text) == "test"]
    texts = [text[:12_000] for text in texts[: options.documents]]

    scores = {dtype: _nll(dtype, texts) for dtype in DTYPES}
    entities = {dtype: _entities(dtype, texts) for dtype in DTYPES}
    for dtype in DTYPES:
        nll, found = scores[dtype], entities[dtype]
        reference = entities["float32"]
        shared = len(found & reference)
        agreement = 2 * shared / max(1, len(found) + len(reference))
        change = np.abs(nll - scores["float32"]).max()
        print(
            f"{dtype:9s} mean nll {nll.mean():.4f}, largest change a document {change:.4f};"
            f" {len(found)} entities, F1 with float32's {agreement:.4f}"
        )


def _nll(dtype: str, texts: list[str]) -> np.ndarray:
    predictor = load_predictor("masked-lm-scoring", str(CHECKPOINTS / "fill-mask"), dtype=dtype)
    return np.array([record["nll"] for record in predictor(texts)])


def _entities(dtype: str, texts: list[str]) -> set[tuple[int, int, int, str]]:
    predictor = load_predictor("token-classification", str(CHECKPOINTS / "token-classification"), dtype=dtype)
    return {
        (number, entity["start"], entity["end"], entity["entity_group"])
        for number, record in enumerate(predictor(texts))
        for entity in record["entities"]
    }


if __name__ == "__main__":
    main()
