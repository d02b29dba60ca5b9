"""Held-out figures of a checkpoint as one JSON object, from the test rows that `rows` wrote.

    python -m examples.demo_family.evaluate --task question-answering --rows out/question-answering

The figures are those of `pipelines.finetune`; for language models, which have none there but the loss, the share of
masked tokens found and the perplexity. Reads the shipped checkpoint unless `--checkpoint` names another.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from torch.nn.functional import cross_entropy

from bigbird import BigBirdTokenizer, load_model
from bigbird.packing import pack
from examples.demo_family.rows import TASKS
from pipelines.finetuning.metrics import measure

MASKED_SHARE = 0.15
SHIPPED = {"masked-lm": "fill-mask", "causal-lm": "text-generation"}


def language_model_figures(task: str, checkpoint: str, texts: list[str], max_length: int) -> dict[str, float]:
    """Nats and hits a token, of texts read in stretches of `max_length` tokens.

    causal-lm: every token from those before it. masked-lm: 15 % of the tokens, all hidden at once.
    """
    tokenizer, model = BigBirdTokenizer.from_pretrained(checkpoint), load_model(checkpoint, dtype=torch.float32).eval()
    draw = np.random.default_rng(0)
    num_tokens, hits, loss = 0, 0, 0.0
    for ids in (tokenizer.encode(text, add_special_tokens=False) for text in texts):
        for start in range(0, len(ids), max_length - 2):
            row = np.array([tokenizer.cls_token_id, *ids[start : start + max_length - 2], tokenizer.sep_token_id])
            asked = np.arange(1, len(row) - 1)
            if task == "masked-lm":
                asked = asked[draw.random(len(asked)) < MASKED_SHARE]
            answers = torch.from_numpy(row[asked])
            if task == "masked-lm":
                row[asked] = tokenizer.mask_token_id
            else:
                asked = asked - 1  # a causal model says at a place what comes next
            with torch.inference_mode():
                logits = model.cls(model.bert.encode(pack([row.tolist()]))[torch.from_numpy(asked)])
            num_tokens += len(answers)
            hits += int((logits.argmax(dim=1) == answers).sum())
            loss += cross_entropy(logits, answers, reduction="sum").item()
    nll = loss / num_tokens
    return {"num_tokens": num_tokens, "accuracy": hits / num_tokens, "nll": nll, "perplexity": math.exp(nll)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--rows", type=Path, required=True, help="folder that examples.demo_family.rows wrote")
    parser.add_argument("--checkpoint", help="default: the shipped one of the task")
    parser.add_argument("--max-length", type=int, default=4096, help="window of the two language models, in tokens")
    arguments = parser.parse_args()
    checkpoint = arguments.checkpoint or f"checkpoints/{SHIPPED.get(arguments.task, arguments.task)}"
    documents = pq.read_table(arguments.rows / "test.parquet").to_pylist()
    if arguments.task in SHIPPED:
        texts = [row["text"] for row in documents]
        found = language_model_figures(arguments.task, checkpoint, texts, arguments.max_length)
    else:
        found = measure(arguments.task, checkpoint, documents)
    print(json.dumps({"rows": len(documents), **found}, indent=1))


if __name__ == "__main__":
    main()
