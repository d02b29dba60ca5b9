"""A training run, step by step: which rows a step reads, its loss, its gradient, its update, its state.

Everything is decided by the seed and the step's number, so a run that goes on from a state makes the steps it would
have made. A step's gradient is that of the mean loss over all its targets, however its rows are spread over workers
and micro-batches. Knows torch.distributed where it is set up, no Ray, and no files.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines.finetuning.objective import Objective
from pipelines.finetuning.options import TrainingOptions
from pipelines.finetuning.token_rows import TokenRow, in_order


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


class Run:
    """A model under training: AdamW, the rate's course, and how far it is."""

    def __init__(self, objective: Objective, rows: Sequence[TokenRow], options: TrainingOptions) -> None:
        self.objective = objective
        self.model = objective.model
        if options.gradient_checkpointing:
            self.model.gradient_checkpointing_enable()
        if options.freeze_encoder:
            self.model.bert.requires_grad_(False)
        self.options = options
        self.rows = in_order(rows)
        self.steps = plan_steps(self.rows, options)
        self.losses: list[float] = []
        self.parameters = parameters = [p for p in self.model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": options.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, fused=True)  # `advance` sets the rate

    @property
    def step(self) -> int:
        return len(self.losses)

    @property
    def is_finished(self) -> bool:
        return self.step >= len(self.steps)

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        return self.options.rate(step, len(self.steps))

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
        torch.nn.utils.clip_grad_norm_(self.parameters, self.options.max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(self.step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.losses.append(loss.item())
        return self.losses[-1]

    def _add_up(self, loss: Tensor) -> Tensor:
        """Sum gradients and loss over the workers: each holds its share of one mean."""
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        flat = torch.cat([loss.reshape(1), *(gradient.reshape(-1) for gradient in gradients)])
        torch.distributed.all_reduce(flat)
        sizes = [1, *(gradient.numel() for gradient in gradients)]
        summed, *parts = flat.split(sizes)
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
        total: Tensor = summed[0]
        return total

    @torch.no_grad()
    def evaluate(self, rows: Sequence[TokenRow], rank: int = 0, num_workers: int = 1) -> float:
        """Mean loss over the targets of other rows, in evaluation mode; masked-lm hides the same tokens every time.

        Each worker computes its share of the rows, and all of them return the same number.
        """
        self.model.eval()
        total = sum(self.objective.num_targets(row) for row in rows)
        loss = torch.zeros((), dtype=torch.float64, device=self.model.device)
        for batch in micro_batches(rows[rank::num_workers], self.options.max_tokens_per_batch):
            loss += self.objective.loss_sum(batch, 0)
        if num_workers > 1:
            torch.distributed.all_reduce(loss)
        return loss.item() / max(1, total)

    def state(self) -> dict[str, Any]:
        """All that `restore` needs to go on as if nothing had happened."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "losses": self.losses}

    def restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.losses = list(state["losses"])
