"""Held-out figures of the shipped checkpoints, and of their baselines, as one JSON object.

    python -m checkpoints.evaluate --task fill-mask --corpus out/corpus.parquet
    python -m checkpoints.evaluate --task token-classification --data out/code-entities

Reads only the test part of the split (`corpus_split`). The model is run as it is shipped, through
`load_model` and `load_predictor`.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from bigbird.checkpoint import load_model
from bigbird.packing import pack
from bigbird.predictors import load_predictor
from bigbird.tokenization.tokenizer import BigBirdTokenizer
from checkpoints.code_entities import LABELS, Entity
from checkpoints.corpus_split import fingerprint, read_documents
from checkpoints.demo_model import SEP
from checkpoints.entity_patterns import tag
from checkpoints.pretrain import CLS, MASK, NUM_SPECIAL

Figures = dict[str, Any]
MASKED_SHARE = 0.15


def masked_token_figures(checkpoint: Path, corpus: Path, max_length: int) -> Figures:
    """Share of hidden tokens found again, 15 % of every window replaced by [MASK], one forward pass each.

    Baselines: always the most frequent token of the train part; the most frequent one after the left neighbour.
    """
    tokenizer = BigBirdTokenizer.from_pretrained(checkpoint)
    model = load_model(checkpoint, dtype=torch.float32).eval()
    train = _stream(tokenizer, [d.text for d in read_documents(corpus, "train")])
    vocab_size = model.config.vocab_size
    majority = int(np.bincount(train).argmax())
    pairs, counts = np.unique(train[:-1] * vocab_size + train[1:], return_counts=True)
    after = np.full(vocab_size, majority)
    order = np.argsort(counts, kind="stable")  # the most frequent pair of each left neighbour is written last
    after[pairs[order] // vocab_size] = pairs[order] % vocab_size

    hits: Counter[str] = Counter()
    loss = 0.0
    draw = np.random.default_rng(0)
    for document in read_documents(corpus, "test"):
        ids = np.array(tokenizer.encode(document.text, add_special_tokens=False).ids)
        for start in range(0, len(ids), max_length - 2):
            row = np.concatenate([[CLS], ids[start : start + max_length - 2], [SEP]])
            places = 1 + np.flatnonzero(draw.random(len(row) - 2) < MASKED_SHARE)
            places = places[row[places] >= NUM_SPECIAL]
            if not len(places):
                continue
            answers, shown = row[places], row.copy()
            shown[places] = MASK
            with torch.inference_mode():
                logits = model.cls(model.bert.encode(pack([shown.tolist()]))[torch.from_numpy(places)])
            loss += torch.nn.functional.cross_entropy(logits, torch.from_numpy(answers), reduction="sum").item()
            hits["masked"] += len(places)
            hits["model"] += int((logits.argmax(dim=1).numpy() == answers).sum())
            hits["majority"] += int((answers == majority).sum())
            hits["bigram"] += int((after[shown[places - 1]] == answers).sum())
    share = {name: round(hits[name] / hits["masked"], 4) for name in ("model", "majority", "bigram")}
    return {"num_masked": hits["masked"], "accuracy": share, "loss_nats": round(loss / hits["masked"], 3)}


def _stream(tokenizer: BigBirdTokenizer, texts: list[str]) -> np.ndarray:
    encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
    return np.concatenate([np.array([*encoding.ids, SEP], dtype=np.int64) for encoding in encodings])


def entity_figures(checkpoint: Path, data: Path, max_length: int, part: str = "test") -> Figures:
    """F1 by exact span and label, each class and all together (micro), of the model and of regular expressions."""
    rows = pq.read_table(data / f"{part}.parquet").to_pylist()
    truth = [{Entity(e["start"], e["end"], e["label"]) for e in row["entities"]} for row in rows]
    predictor = load_predictor("token-classification", checkpoint)
    predictor.config = predictor.config.replace(max_position_embeddings=max_length)
    records = predictor([row["text"] for row in rows])
    figures: Figures = {"num_files": len(rows), "num_entities": sum(map(len, truth))}
    figures["model"] = _f1(
        truth, [[Entity(e["start"], e["end"], e["entity_group"]) for e in r["entities"]] for r in records]
    )
    taggers: dict[str, Callable[[str], Iterable[Entity]]] = {
        "patterns": lambda text: tag(text, remember=False),
        "patterns with memory": lambda text: tag(text, remember=True),
    }
    for name, tagger in taggers.items():
        figures[name] = _f1(truth, [tagger(row["text"]) for row in rows])
    return figures


def _f1(truth: list[set[Entity]], found: Iterable[Iterable[Entity]]) -> Figures:
    counts: dict[str, Counter[str]] = {label: Counter() for label in [*LABELS[1:], "all"]}
    for right, guesses in zip(truth, map(set, found), strict=True):
        for kind, entities in (("hit", right & guesses), ("found", guesses), ("true", right)):
            for entity in entities:
                counts[entity.label][kind] += 1
                counts["all"][kind] += 1
    result = {}
    for label, count in counts.items():
        precision, recall = count["hit"] / max(1, count["found"]), count["hit"] / max(1, count["true"])
        f1 = 2 * precision * recall / max(1e-9, precision + recall)
        result[label] = {"precision": round(precision, 3), "recall": round(recall, 3), "f1": round(f1, 3)}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--task", choices=["fill-mask", "token-classification"], required=True)
    parser.add_argument("--checkpoint", type=Path, help="default: the shipped one of the task")
    parser.add_argument("--corpus", type=Path, help="for fill-mask: of pipelines.corpus")
    parser.add_argument("--data", type=Path, help="for token-classification: of checkpoints.label_corpus")
    parser.add_argument("--max-length", type=int, default=4096, help="the longest window the model sees")
    arguments = parser.parse_args()
    checkpoint = arguments.checkpoint or Path(__file__).parent / arguments.task
    if arguments.task == "fill-mask":
        figures = masked_token_figures(checkpoint, arguments.corpus, arguments.max_length)
        figures["corpus"] = fingerprint(arguments.corpus)
    else:
        figures = entity_figures(checkpoint, arguments.data, arguments.max_length)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
