"""Held-out figures of the heads that `pipelines.finetune` trained, and of their baselines, as one JSON object.

    python -m checkpoints.evaluate_heads --task question-answering --data out/question-answering [--max-length 512]

Reads the test part that `checkpoints.head_data` wrote, and for the baselines the training part. The model is run as it
is shipped, through its predictor; `--max-length` is the longest window it sees.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from bigbird.checkpoint import load_model
from bigbird.packing import pack
from bigbird.predictors import load_predictor
from bigbird.tokenization.tokenizer import BigBirdTokenizer
from checkpoints import baselines
from pipelines.finetuning.documents import COLUMNS
from pipelines.finetuning.metrics import answer_figures, figures

Rows = list[dict[str, Any]]


def head_figures(task: Any, checkpoint: Path, rows: Rows, max_length: int | None) -> dict[str, float]:
    """What the predictor finds in the rows, measured as `pipelines.finetune` does."""
    predictor = load_predictor(task, checkpoint)
    predictor.options = replace(predictor.options, max_length=max_length)
    columns = COLUMNS[task][0]
    examples = [row["text"] if columns == ("text",) else {name: row[name] for name in columns} for row in rows]
    return figures(task, rows, predictor(examples))


def causal_figures(checkpoint: Path, train: Rows, rows: Rows, max_length: int) -> dict[str, float]:
    """Nats a token and perplexity of documents read in stretches of `max_length` tokens, each after [CLS]."""
    tokenizer = BigBirdTokenizer.from_pretrained(checkpoint)
    model = load_model(checkpoint, dtype=torch.float32).eval()
    loss, num_tokens = 0.0, 0
    texts = [tokenizer.encode(row["text"], add_special_tokens=False).ids for row in rows]
    for ids in texts:
        for at in range(0, len(ids), max_length - 1):
            stretch = ids[at : at + max_length - 1]
            with torch.inference_mode():
                logits = model.cls(model.bert.encode(pack([[tokenizer.cls_token_id, *stretch]])))[:-1]
            loss += torch.nn.functional.cross_entropy(logits, torch.tensor(stretch), reduction="sum").item()
            num_tokens += len(stretch)
    known = [tokenizer.encode(row["text"], add_special_tokens=False).ids for row in train]
    pairs, single = baselines.bigram_nll(known, texts, model.config.vocab_size)
    return {
        "num_tokens": num_tokens,
        "nll": loss / num_tokens,
        "perplexity": math.exp(loss / num_tokens),
        "bigram_perplexity": math.exp(pairs),
        "unigram_perplexity": math.exp(single),
    }


def baseline_figures(task: str, train: Rows, rows: Rows) -> dict[str, Any]:
    """The same figures of what needs no model."""

    def share(found: list[Any]) -> float:
        return sum(guess == row["label"] for guess, row in zip(found, rows, strict=True)) / len(rows)

    if task == "text-classification":
        return {
            "bag of words": share(baselines.bag_of_words(train, rows)),
            "neighbouring lines": share(baselines.neighbouring_lines(train, rows)),
        }
    if task == "multiple-choice":
        return {"common words": share(baselines.common_words(rows))}
    truth = [row["answers"]["text"] for row in rows]
    return {
        "first docstring": answer_figures(truth, baselines.docstring_lines(rows, by_name=False)),
        "docstring with most words of the name": answer_figures(truth, baselines.docstring_lines(rows, by_name=True)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    tasks = ["text-classification", "multiple-choice", "question-answering", "text-generation"]
    parser.add_argument("--task", choices=tasks, required=True)
    parser.add_argument("--checkpoint", type=Path, help="default: the shipped one of the task")
    parser.add_argument("--data", type=Path, required=True, help="folder of checkpoints.head_data")
    parser.add_argument("--max-length", type=int, help="the longest window the model sees; default: what it reads")
    arguments = parser.parse_args()
    checkpoint = arguments.checkpoint or Path(__file__).parent / arguments.task
    train, rows = (pq.read_table(arguments.data / f"{part}.parquet").to_pylist() for part in ("train", "test"))
    found: dict[str, Any] = {"rows": len(rows)}
    if arguments.task == "text-generation":
        found |= causal_figures(checkpoint, train, rows, arguments.max_length or 4096)
    else:
        found["model"] = head_figures(arguments.task, checkpoint, rows, arguments.max_length)
        found["baselines"] = baseline_figures(arguments.task, train, rows)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
