"""What bfloat16 and int8 cost in accuracy on the shipped checkpoints.

    python -m benchmarks.precision [--documents 40]

On the first 12,000 characters of held-out documents: masked tokens found again and entities found (F1 by exact span and
label, against the labels of the syntax tree), and how far scores move from float32's.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bigbird import load_model, load_predictor, prepare_for_inference
from bigbird.packing import pack
from examples.demo_family.code_entities import entities
from examples.demo_family.corpus_split import part_of
from pipelines.corpus import Document, python_documents
from pipelines.finetuning.metrics import span_figures

CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"
DTYPES = ("float32", "bfloat16", "int8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=40)
    options = parser.parse_args()
    documents = [d for d in python_documents() if isinstance(d, Document) and part_of(d.text) == "test"]
    documents = [d for d in documents if d.path.endswith(".py")][: options.documents]
    texts = [document.text[:12_000] for document in documents]
    # Labels are those of the whole file: a cut text need not parse.
    truth = [
        {(e.start, e.end, e.label) for e in entities(document.text) if e.end <= len(text)}
        for document, text in zip(documents, texts, strict=True)
    ]
    reference: dict[str, Any] = {}
    for dtype in DTYPES:
        found = _tagged(dtype, texts)
        scores = [{entity[:3]: entity[3] for entity in one} for one in found]
        nll = _nll(dtype, texts)
        reference = reference or {"scores": scores, "nll": nll}
        moved = max(
            (abs(mine[span] - one[span]) for mine, one in zip(scores, reference["scores"], strict=True)
             for span in mine.keys() & one.keys()), default=0.0,
        )  # fmt: skip
        f1 = span_figures(truth, [set(one) for one in scores])["f1"]
        print(
            f"{dtype:9s} masked tokens found {_accuracy(dtype, texts):.4f}; entity F1 {f1:.4f}, largest change of an "
            f"entity's score {moved:.4f}; mean nll {nll.mean():.4f}, largest change of a document's "
            f"{np.abs(nll - reference['nll']).max():.4f}"
        )


def _nll(dtype: Any, texts: list[str]) -> np.ndarray:
    predictor = load_predictor("masked-lm-scoring", CHECKPOINTS / "fill-mask", dtype=dtype)
    return np.array([record["nll"] for record in predictor(texts)])


def _accuracy(dtype: Any, texts: list[str]) -> float:
    """Share of the hidden tokens found again, every seventh token of a text hidden at once."""
    directory = CHECKPOINTS / "fill-mask"
    tokenizer = load_predictor("fill-mask", directory, weights=False).tokenizer
    model = prepare_for_inference(load_model(directory, dtype=torch.float32), dtype)
    right = total = 0
    for text in texts:
        ids = torch.tensor(tokenizer.encode(text)[:4096])
        places = torch.arange(3, len(ids) - 1, 7)
        hidden = ids.clone()
        hidden[places] = tokenizer.mask_token_id
        with torch.inference_mode():
            logits = model.cls(model.bert.encode(pack([hidden.tolist()]))[places])
        right += int((logits.argmax(dim=1) == ids[places]).sum())
        total += len(places)
    return right / total


def _tagged(dtype: Any, texts: list[str]) -> list[set[tuple[int, int, str, float]]]:
    predictor = load_predictor("token-classification", CHECKPOINTS / "token-classification", dtype=dtype)
    return [
        {(e["start"], e["end"], e["entity_group"], e["score"]) for e in record["entities"]}
        for record in predictor(texts)
    ]


if __name__ == "__main__":
    main()
