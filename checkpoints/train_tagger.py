"""Train the code-entity tagger from the pre-trained encoder, on whole stretches of files.

    python -m checkpoints.train_tagger --data out/code-entities --tokenizer checkpoints/fill-mask \\
        --encoder out/pretrain.pt --state out/tagger.pt --steps 880

Rows are whole stretches of a file, of 512 to 4,096 tokens, so that a use can be told from a definition far above it.
Goes on from `--state` after a kill. Knows no metric but the loss.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer

from bigbird.heads import BigBirdForTokenClassification
from bigbird.packing import pack
from checkpoints.code_entities import LABELS
from checkpoints.demo_model import SEP, demo_config
from checkpoints.pretrain import CLS, Trainer, rate
from checkpoints.token_labels import FINAL_WEIGHTS, IGNORED, token_labels

LENGTHS = {512: 0.5, 1024: 0.3, 4096: 0.2}
TOKENS_A_STEP = 2048


def labelled_tokens(parquet: Path, tokenizer: Tokenizer) -> list[tuple[np.ndarray, np.ndarray]]:
    """Every document as (tokens,) ids and (tokens,) labels."""
    table = pq.read_table(parquet, columns=["text", "entities"]).to_pylist()
    encodings = tokenizer.encode_batch([row["text"] for row in table], add_special_tokens=False)
    return [
        (np.array(encoding.ids, dtype=np.int64), token_labels(encoding, row["entities"]))
        for row, encoding in zip(table, encodings, strict=True)
    ]


def draw_rows(
    documents: list[tuple[np.ndarray, np.ndarray]], shares: np.ndarray, step: int
) -> tuple[list[list[int]], torch.Tensor]:
    """The rows of one step and their labels on the packed axis, -100 for [CLS] and [SEP]."""
    draw = np.random.default_rng((2, step))
    length = int(draw.choice(list(LENGTHS), p=list(LENGTHS.values())))
    rows, targets = [], []
    for _ in range(max(1, TOKENS_A_STEP // length)):
        ids, labels = documents[int(draw.choice(len(documents), p=shares))]
        start = int(draw.integers(max(1, len(ids) - (length - 2) + 1)))
        stretch = slice(start, start + length - 2)
        rows.append([CLS, *ids[stretch].tolist(), SEP])
        targets.append(np.concatenate([[IGNORED], labels[stretch], [IGNORED]]))
    return rows, torch.from_numpy(np.concatenate(targets))


def new_tagger(encoder: Path) -> BigBirdForTokenClassification:
    """The encoder and the tagging layer of a pre-training state."""
    config = demo_config().replace(id2label=dict(enumerate(LABELS)))
    model = BigBirdForTokenClassification(config)
    state = torch.load(encoder, weights_only=True)
    weights = state["model"]
    model.load_state_dict({name: w for name, w in weights.items() if name.startswith("bert.")}, strict=False)
    model.classifier.load_state_dict(state["tagger"])
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=880)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--save-every", type=int, default=100)
    arguments = parser.parse_args()

    torch.manual_seed(0)
    tokenizer = Tokenizer.from_file(str(arguments.tokenizer / "tokenizer.json"))
    documents = labelled_tokens(arguments.data / "train.parquet", tokenizer)
    sizes = np.array([len(ids) for ids, _ in documents])
    trainer = Trainer(new_tagger(arguments.encoder), arguments.learning_rate)
    if arguments.state.exists():
        trainer.load(arguments.state)
    model = trainer.model

    losses = []
    while trainer.step < arguments.steps:
        rows, targets = draw_rows(documents, sizes / sizes.sum(), trainer.step)
        logits = model.classifier(model.bert.encode(pack(rows)))
        loss = torch.nn.functional.cross_entropy(logits, targets, weight=FINAL_WEIGHTS, ignore_index=IGNORED)
        trainer.update(loss, rate(trainer.step, arguments.steps))
        losses.append(loss.item())
        if trainer.step % 25 == 0:
            entity = targets > 0
            hit = (logits.argmax(dim=1) == targets)[entity].float().mean()
            print(
                f"step {trainer.step} loss {np.mean(losses):.4f} recall {hit:.3f} {time.strftime('%H:%M:%S')}",
                flush=True,
            )
            losses.clear()
        if trainer.step % arguments.save_every == 0 or trainer.step == arguments.steps:
            trainer.save(arguments.state)


if __name__ == "__main__":
    main()
