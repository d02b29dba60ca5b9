"""A training run, step by step: which rows a step reads, its loss, its gradient, its update, its state.

Everything is decided by the seed and the step's number, so a run that goes on from a state makes the steps it would
have made. A step's gradient is that of the mean loss over all its targets, however its rows are spread over workers
and micro-batches. Knows torch.distributed where it is set up, no Ray, and no files.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

from bigbird.heads import QUESTION_PENALTY
from bigbird.packing import PackedBatch, pack
from pipelines.finetuning.documents import MULTIPLE, REGRESSION, Task
from pipelines.finetuning.token_rows import IGNORED, TokenRow


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How to train.

    tokens_per_step: rows are gathered to about that many tokens for one update. max_tokens_per_batch: what one
    forward pass of one worker may hold; more is accumulated. warmup: share of the steps in which the rate rises; it
    falls linearly afterwards. mask_share: of masked-lm. gradient_checkpointing: recompute each layer in the
    backward pass: less memory for more time.
    """

    epochs: float = 3.0
    learning_rate: float = 5e-5
    warmup: float = 0.06
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    tokens_per_step: int = 16_384
    max_tokens_per_batch: int = 16_384
    mask_share: float = 0.15
    seed: int = 0
    dtype: str = "float32"
    gradient_checkpointing: bool = False


def plan_steps(rows: Sequence[TokenRow], options: TrainingOptions) -> list[list[int]]:
    """The rows of every step, as indices: each epoch every row once, in an order of its own."""
    steps: list[list[int]] = []
    for epoch in range(math.ceil(options.epochs)):
        step: list[int] = []
        size = 0
        order = np.random.default_rng((options.seed, epoch)).permutation(len(rows)).tolist()
        for index in order[: round(len(rows) * min(1.0, options.epochs - epoch))]:
            if step and size + len(rows[index].ids) > options.tokens_per_step:
                steps.append(step)
                step, size = [], 0
            step.append(index)
            size += len(rows[index].ids)
        if step:
            steps.append(step)
    return steps


def micro_batches(rows: Sequence[TokenRow], max_tokens: int) -> Iterator[list[TokenRow]]:
    """Rows in order, cut where the next would exceed `max_tokens`; a longer row is a batch of its own."""
    batch: list[TokenRow] = []
    for row in rows:
        if batch and sum(len(r.ids) for r in batch) + len(row.ids) > max_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _parts(row: TokenRow, values: Sequence[int]) -> Iterator[list[int]]:
    """What a row holds for each of its tokens, one list for each row the model reads."""
    start = 0
    for length in row.lengths:
        yield list(values[start : start + length])
        start += length


class Objective:
    """The loss of a task, as a sum over targets, so that parts of a step add up."""

    def __init__(self, model: Any, task: Task, options: TrainingOptions, mask_token_id: int | None) -> None:
        self.model = model
        self.task = task
        self.options = options
        self.mask_token_id = mask_token_id

    def num_targets(self, row: TokenRow) -> int:
        """How many terms the row adds to the loss."""
        if self.task == "token-classification":
            return sum(target != IGNORED for target in row.targets)
        if self.task in ("masked-lm", "causal-lm"):
            return len(row.ids) - 1 if self.task == "causal-lm" else len(self._hidden_places(row, 0))
        return 1

    def loss_sum(self, rows: Sequence[TokenRow], step: int) -> Tensor:
        """The summed loss of some rows, a scalar. `step` decides which tokens masked-lm hides."""
        device = self.model.device
        ids = [list(row.ids) for row in rows]
        places: list[int] = []
        if self.task == "masked-lm":
            assert self.mask_token_id is not None
            start = 0
            for row, shown in zip(rows, ids, strict=True):
                for place in self._hidden_places(row, step):
                    shown[place] = self.mask_token_id
                    places.append(start + place)
                start += len(shown)
        packed = pack(
            [part for row, shown in zip(rows, ids, strict=True) for part in _parts(row, shown)],
            [part for row in rows for part in _parts(row, row.token_type_ids)],
            device=device,
        )
        hidden = self.model.bert.encode(packed)
        if self.task == "token-classification":
            targets = torch.tensor([t for row in rows for t in row.targets], device=device).long()
            logits = self.model.classifier(self.model.dropout(hidden)).float()
            return cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
        if self.task == "text-classification":
            return self._classification(self.model.classifier(hidden[packed.first_tokens]).float(), rows)
        if self.task == "multiple-choice":
            pooled = self.model.bert.pool(hidden[packed.first_tokens])
            return self._choice(self.model.classifier(self.model.dropout(pooled))[:, 0].float(), rows)
        if self.task == "question-answering":
            return self._answer(self.model.qa_classifier(hidden).float(), packed, rows)
        original = torch.tensor([token for row in rows for token in row.ids], device=device)
        if self.task == "masked-lm":
            index = torch.tensor(places, device=device)
            return cross_entropy(self.model.cls(hidden[index]).float(), original[index], reduction="sum")
        last = torch.tensor([*packed.starts[1:], packed.num_tokens], device=device) - 1
        keep = torch.ones(packed.num_tokens, dtype=torch.bool, device=device)
        keep[last] = False
        index = keep.nonzero().squeeze(1)
        return cross_entropy(self.model.cls(hidden[index]).float(), original[index + 1], reduction="sum")

    def _classification(self, logits: Tensor, rows: Sequence[TokenRow]) -> Tensor:
        targets = torch.tensor([row.targets for row in rows], device=logits.device)
        problem = self.model.config.problem_type
        if problem == REGRESSION:
            return mse_loss(logits, targets, reduction="sum")
        if problem == MULTIPLE:
            return binary_cross_entropy_with_logits(logits, targets, reduction="sum") / logits.shape[1]
        return cross_entropy(logits, targets[:, 0].long(), reduction="sum")

    def _choice(self, scores: Tensor, rows: Sequence[TokenRow]) -> Tensor:
        """scores: one a choice, (choices of all rows,); the loss is over the choices of each row."""
        losses = []
        for logits, row in zip(scores.split([len(row.lengths) for row in rows]), rows, strict=True):
            losses.append(cross_entropy(logits, torch.tensor(int(row.targets[0]), device=logits.device)))
        return torch.stack(losses).sum()

    def _answer(self, logits: Tensor, packed: PackedBatch, rows: Sequence[TokenRow]) -> Tensor:
        """logits: (tokens, 2), start and end. As in the head's `forward`, no answer lies in the question."""
        in_question = packed.token_type_ids == 0
        in_question[packed.first_tokens] = False
        logits = logits - in_question[:, None] * QUESTION_PENALTY
        losses = []
        for of_row, row in zip(logits.split([len(row.ids) for row in rows]), rows, strict=True):
            places = torch.tensor(row.targets, device=logits.device).long()
            losses.append(cross_entropy(of_row.T, places, reduction="mean"))
        return torch.stack(losses).sum()

    def _hidden_places(self, row: TokenRow, step: int) -> list[int]:
        """The same places for a row and a step wherever the row is trained; always as many."""
        draw = np.random.default_rng((self.options.seed, step, int(row.key[:12], 16)))
        inside = len(row.ids) - 2
        count = min(inside, max(1, round(inside * self.options.mask_share)))
        return sorted(int(place) + 1 for place in draw.choice(inside, size=count, replace=False))


class Run:
    """A model under training: AdamW, the rate's course, and how far it is."""

    def __init__(self, objective: Objective, rows: Sequence[TokenRow], options: TrainingOptions) -> None:
        self.objective = objective
        self.model = objective.model
        if options.gradient_checkpointing:
            self.model.gradient_checkpointing_enable()
        self.options = options
        self.rows = sorted(rows, key=lambda row: (row.key, row.targets))
        self.steps = plan_steps(self.rows, options)
        self.losses: list[float] = []
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": options.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=options.learning_rate, fused=True)

    @property
    def step(self) -> int:
        return len(self.losses)

    @property
    def is_finished(self) -> bool:
        return self.step >= len(self.steps)

    def rate(self, step: int) -> float:
        """The learning rate of a step: up over the warm-up, then linearly down to zero after the last step."""
        total = len(self.steps)
        warmup = max(1, round(self.options.warmup * total))
        share = (step + 1) / warmup if step < warmup else (total - step) / max(1, total - warmup)
        return self.options.learning_rate * min(1.0, share)

    def advance(self, rank: int = 0, num_workers: int = 1) -> float:
        """One update, the same on every worker; returns the mean loss over all targets of the step."""
        torch.manual_seed(self.options.seed * 1_000_003 + self.step * 64 + rank)  # dropout
        self.model.train()
        chosen = [self.rows[index] for index in self.steps[self.step]]
        total = sum(self.objective.num_targets(row) for row in chosen)
        loss = torch.zeros((), device=self.model.device)
        for batch in micro_batches(chosen[rank::num_workers], self.options.max_tokens_per_batch):
            bf16 = self.options.dtype == "bfloat16"
            with torch.autocast(self.model.device.type, torch.bfloat16, enabled=bf16):
                part = self.objective.loss_sum(batch, self.step) / max(1, total)
            part.backward()
            loss += part.detach()
        if num_workers > 1:
            loss = self._add_up(loss)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.options.max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(self.step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.losses.append(loss.item())
        return self.losses[-1]

    def _add_up(self, loss: Tensor) -> Tensor:
        """Sum gradients and loss over the workers: each holds its share of one mean."""
        for parameter in self.model.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in self.model.parameters()]
        flat = torch.cat([loss.reshape(1), *(gradient.reshape(-1) for gradient in gradients)])
        torch.distributed.all_reduce(flat)
        sizes = [1, *(gradient.numel() for gradient in gradients)]
        summed, *parts = flat.split(sizes)
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
        total: Tensor = summed[0]
        return total

    @torch.no_grad()
    def evaluate(self, rows: Sequence[TokenRow]) -> float:
        """Mean loss over the targets of other rows, in evaluation mode; masked-lm hides the same tokens every time."""
        self.model.eval()
        total = sum(self.objective.num_targets(row) for row in rows)
        batches = micro_batches(rows, self.options.max_tokens_per_batch)
        return sum(self.objective.loss_sum(batch, 0).item() for batch in batches) / max(1, total)

    def state(self) -> dict[str, Any]:
        """All that `restore` needs to go on as if nothing had happened."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "losses": self.losses}

    def restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.losses = list(state["losses"])
