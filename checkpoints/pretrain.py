"""Pre-train the demo family's encoder as a masked language model, from nothing.

    python -m checkpoints.pretrain --corpus out/corpus.parquet --entities out/code-entities/train.parquet \\
        --tokenizer checkpoints/fill-mask --state out/pretrain.pt

Beside the hidden tokens the encoder learns the code entities of all tokens, in the same pass: a label for every token
teaches it more than one token in four, and the tagger starts from an encoder that knows its task.

Fixed steps, fixed seed, no dropout, evaluation mode: the model trains with the attention it is used with. Killed at
any moment it goes on from `--state`. Writes only that file; `checkpoints.export` makes a checkpoint directory of it.
Knows no labels and no metric but the loss.

Batches are small; rows are mostly short, a quarter of the short ones placed anywhere in the 4,096 positions, so that
late positions are trained at the price of early ones.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.functional import cross_entropy

from bigbird.heads import BigBirdForMaskedLM, BigBirdForTokenClassification
from bigbird.packing import PackedBatch, pack
from checkpoints.code_entities import LABELS
from checkpoints.corpus_split import read_documents
from checkpoints.demo_model import SEP, demo_config, new_model
from checkpoints.token_labels import IGNORED, WEIGHTS, token_labels

CLS, MASK, NUM_SPECIAL = 4, 6, 7
TOKENS_A_STEP = 2048
# length of a row: share of the steps whose rows have that length
LENGTHS = {256: 0.45, 512: 0.30, 704: 0.08, 1024: 0.09, 2048: 0.04, 4096: 0.04}


def token_streams(corpus: Path, entities: Path, tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Every document of the train part one after another, each ended by [SEP], and the entity label of every token.

    (tokens,) int64 each; the label is -100 where a document has none: [SEP], and what is no Python source.
    """
    documents = read_documents(corpus, "train")
    encodings = tokenizer.encode_batch([document.text for document in documents], add_special_tokens=False)
    labelled = {row["path"]: row for row in pq.read_table(entities).to_pylist()}
    tokens, labels = [], []
    for document, encoding in zip(documents, encodings, strict=True):
        row = labelled.get(document.path)
        known = token_labels(encoding, row["entities"]) if row else np.full(len(encoding.ids), IGNORED)
        tokens.append(np.array([*encoding.ids, SEP], dtype=np.int64))
        labels.append(np.append(known, IGNORED))
    return np.concatenate(tokens), np.concatenate(labels)


@dataclass(kw_only=True)
class Batches:
    """Rows drawn from a token stream: every epoch visits each stretch of 256 tokens once, in another order."""

    stream: np.ndarray
    labels: np.ndarray
    lengths: dict[int, float]
    seed: int

    def rows(self, step: int, visited: int) -> tuple[list[np.ndarray], Tensor]:
        """The rows of one step, [CLS] ... [SEP], all of one length, and their labels on the packed axis.

        visited: stretches of 256 tokens taken so far.
        """
        draw = np.random.default_rng((self.seed, step))
        length = int(draw.choice(list(self.lengths), p=list(self.lengths.values())))
        last = len(self.stream) - (length - 2)
        rows, labels = [], []
        for number in range(max(1, TOKENS_A_STEP // length)):
            epoch, place = divmod(visited + number * max(1, length // 256), self.num_stretches)
            start = min(int(self.order(epoch)[place]) * 256 + int(draw.integers(256)), last)
            stretch = slice(start, start + length - 2)
            rows.append(np.concatenate([[CLS], self.stream[stretch], [SEP]]))
            labels.append(np.concatenate([[IGNORED], self.labels[stretch], [IGNORED]]))
        return rows, torch.from_numpy(np.concatenate(labels))

    @property
    def num_stretches(self) -> int:
        return max(1, len(self.stream) // 256)

    def order(self, epoch: int) -> np.ndarray:
        if getattr(self, "_epoch", None) != epoch:
            self._epoch = epoch
            self._order = np.random.default_rng((self.seed, 1 << 40, epoch)).permutation(self.num_stretches)
        return self._order


def masked(
    rows: list[np.ndarray], draw: np.random.Generator, share: float, vocab_size: int
) -> tuple[list[list[int]], Tensor, Tensor]:
    """Hide a share of the ordinary tokens: 80 % as [MASK], 10 % as any token, 10 % left as they are.

    Returns the rows, the hidden places on the packed axis (M,), and what was there (M,).
    """
    flat = np.concatenate(rows)
    ordinary = np.flatnonzero(flat >= NUM_SPECIAL)
    places = np.sort(draw.choice(ordinary, size=max(1, round(len(ordinary) * share)), replace=False))
    answers = flat[places].copy()
    kind = draw.random(len(places))
    flat[places[kind < 0.8]] = MASK
    random_places = places[kind >= 0.9]
    flat[random_places] = draw.integers(NUM_SPECIAL, vocab_size, size=len(random_places))
    ends = np.cumsum([len(row) for row in rows])[:-1]
    return [row.tolist() for row in np.split(flat, ends)], torch.from_numpy(places), torch.from_numpy(answers)


def shifted(packed: PackedBatch, draw: np.random.Generator, num_positions: int, share: float = 0.25) -> PackedBatch:
    """Move the positions of a share of the rows anywhere they fit."""
    length = packed.lengths[0]
    offsets = draw.integers(num_positions - length + 1, size=len(packed.lengths))
    offsets = np.where(draw.random(len(offsets)) < share, offsets, 0)
    return replace(packed, position_ids=packed.position_ids + torch.from_numpy(np.repeat(offsets, length)))


def rate(step: int, steps: int, warmup: int = 100, decay: float = 0.35) -> float:
    """Share of the peak learning rate: up over `warmup` steps, level, then down to zero over the last `decay`."""
    left = (steps - step) / (decay * steps)
    return min(1.0, (step + 1) / warmup, 1 - (1 - left) ** 2 if left < 1 else 1.0)


class Trainer:
    """A model, its AdamW, and how far they are. State lives in one file, replaced atomically."""

    def __init__(
        self,
        model: BigBirdForMaskedLM | BigBirdForTokenClassification,
        learning_rate: float,
        tagger: torch.nn.Linear | None = None,
    ) -> None:
        self.model = model
        self.learning_rate = learning_rate
        self.step = self.visited = 0
        # By name, so that a state can be read whatever order the modules are declared in.
        self.parameters = dict(sorted(model.named_parameters()))
        self.tagger = tagger
        if tagger is not None:
            self.parameters |= {f"tagger.{name}": p for name, p in tagger.named_parameters()}
        matrices = [p for n, p in self.parameters.items() if p.ndim == 2 and "embeddings" not in n]
        others = [p for n, p in self.parameters.items() if p.ndim != 2 or "embeddings" in n]
        groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98), fused=True)

    def update(self, loss: Tensor, share_of_rate: float) -> None:
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * share_of_rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1

    def save(self, path: Path) -> None:
        state = {
            "model": self.model.state_dict(),
            "tagger": {} if self.tagger is None else self.tagger.state_dict(),
            "moments": {
                name: self.optimizer.state[p] for name, p in self.parameters.items() if self.optimizer.state[p]
            },
            "step": self.step,
            "visited": self.visited,
        }
        unfinished = path.with_suffix(".unfinished")
        torch.save(state, unfinished)
        os.replace(unfinished, path)

    def load(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        if self.tagger is not None and state.get("tagger"):
            self.tagger.load_state_dict(state["tagger"])
        for name, moments in state["moments"].items():
            self.optimizer.state[self.parameters[name]] = moments
        self.step, self.visited = state["step"], state["visited"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--entities", type=Path, required=True, help="train.parquet of checkpoints.label_corpus")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2_500)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--save-every", type=int, default=200)
    arguments = parser.parse_args()

    torch.manual_seed(0)
    tokenizer = Tokenizer.from_file(str(arguments.tokenizer / "tokenizer.json"))
    stream, labels = token_streams(arguments.corpus, arguments.entities, tokenizer)
    batches = Batches(stream=stream, labels=labels, lengths=LENGTHS, seed=0)
    resumed = arguments.state.exists()
    model = BigBirdForMaskedLM(demo_config()).eval() if resumed else new_model(stream)
    config = model.config
    tagger = torch.nn.Linear(config.hidden_size, len(LABELS))
    trainer = Trainer(model, arguments.learning_rate, tagger)
    if resumed:
        trainer.load(arguments.state)
    print(f"{len(stream):,} tokens; from step {trainer.step} to {arguments.steps}", flush=True)

    began, num_tokens = time.perf_counter(), 0
    losses: list[tuple[float, float]] = []
    while trainer.step < arguments.steps:
        draw = np.random.default_rng((1, trainer.step))
        rows, targets = batches.rows(trainer.step, trainer.visited)
        inputs, places, answers = masked(rows, draw, 0.25, config.vocab_size)
        packed = pack(inputs)
        if packed.lengths[0] <= 704:
            packed = shifted(packed, draw, config.max_position_embeddings)
        hidden = model.bert.encode(packed)
        word_loss = cross_entropy(model.cls(hidden[places]), answers)
        tag_loss = cross_entropy(tagger(hidden), targets, weight=WEIGHTS, ignore_index=IGNORED)
        trainer.visited += max(1, packed.num_tokens // 256)
        labelled = bool((targets != IGNORED).any())
        trainer.update(word_loss + tag_loss if labelled else word_loss, rate(trainer.step, arguments.steps))
        num_tokens += packed.num_tokens
        losses.append((word_loss.item(), tag_loss.item() if labelled else 0.0))
        if trainer.step % 25 == 0:
            speed = num_tokens / (time.perf_counter() - began)
            words, tags = np.mean(losses, axis=0)
            clock = time.strftime("%H:%M:%S")
            print(f"step {trainer.step} words {words:.3f} tags {tags:.3f} {speed:.0f} tokens/s {clock}", flush=True)
            losses.clear()
        if trainer.step % arguments.save_every == 0 or trainer.step == arguments.steps:
            trainer.save(arguments.state)


if __name__ == "__main__":
    main()
