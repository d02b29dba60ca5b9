"""Fine-tune with some heads told where to look; `pipelines.finetune` goes on from there without.

    python -m checkpoints.guided --task question-answering --model checkpoints/fill-mask --train TRAIN --eval EVAL \\
        --output out/guided/question-answering --epochs 2

An encoder of this size hardly uses attention beyond the neighbouring tokens, and does not find by itself, in a few
million tokens, that a docstring belongs to the name before it. So beside the task's loss stands the cross-entropy of
single heads' attention against the places that a solution has to read (`checkpoints.looks`). The heads are told nothing
when the model is used. And since few rows are long, a row's second text, the context of a question, is read at
positions further on.

Takes the arguments of `pipelines.finetune`, and `--go-on` for a model guided before: its heads do not begin anew.
One process, no Ray; writes a checkpoint directory.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bigbird.tokenization.tokenizer import BigBirdTokenizer
from checkpoints.export import TOKENIZER_FILES
from checkpoints.looks import GUIDED, Looks, looks_of
from pipelines.finetune import parse
from pipelines.finetuning.plan import Job, make_rows, new_model, plan_job, read_documents
from pipelines.finetuning.token_rows import TokenRow
from pipelines.finetuning.training import Objective, Run

GAIN = 16.0  # of a head's logits, at first: a token reads what is like itself


def begin_alike(attention: Any, head: int, seed: int) -> None:
    """Start a head's query and key as the same random projection, so that tokens read those which are like them."""
    width = attention.query.in_features
    size = width // attention.num_heads
    draw = torch.Generator().manual_seed(seed)
    projection = torch.linalg.qr(torch.randn(width, size, generator=draw))[0].T  # of a state of norm width ** 0.5
    rows = slice(head * size, (head + 1) * size)
    with torch.no_grad():
        for linear in (attention.query, attention.key):
            linear.weight[rows] = projection * (GAIN / size**0.5) ** 0.5
            linear.bias[rows] = 0


def moved_on(token_type_ids: Tensor, position_ids: Tensor, num_positions: int, draw: torch.Generator) -> Tensor:
    """Position ids (T,) in which the second text of every packed row stands further on, seldom very far."""
    begins = position_ids == 0
    last = begins.roll(-1)  # of each row, which the next one follows
    room = num_positions - position_ids[last]
    steps = (room * torch.rand(len(room), generator=draw) ** 2).long()
    return position_ids + token_type_ids * steps[begins.cumsum(0) - 1]


class GuidedObjective(Objective):
    """A task's loss, and that of the guided heads' attention, `weight` times as heavy a target."""

    def __init__(
        self, model: Any, job: Job, looks: Mapping[str, Sequence[Looks]], mask_token_id: int | None, weight: float = 1.0
    ) -> None:
        super().__init__(model, job.task, job.options, mask_token_id)
        self.looks = looks
        self.weight = weight
        self.heads = GUIDED[job.task]
        self.attention_loss = [0.0] * len(self.heads)
        self._draw = torch.Generator().manual_seed(job.options.seed)

    def _move(self, module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        ids, types, positions, *rest = given
        return ids, types, moved_on(types, positions, self.model.config.max_position_embeddings, self._draw), *rest

    def loss_sum(self, rows: Sequence[TokenRow], step: int) -> Tensor:
        bert = self.model.bert
        projected: dict[nn.Module, tuple[Tensor, Tensor, Tensor]] = {}
        guided = [bert.encoder.layer[layer].attention.self for layer, _ in self.heads]
        hooks = [bert.embeddings.register_forward_pre_hook(self._move)]
        hooks += [
            module.register_forward_hook(lambda module, given, states: projected.update({module: states}))
            for module in guided
        ]
        try:
            loss = super().loss_sum(rows, step)
        finally:
            for hook in hooks:
                hook.remove()
        num_targets = sum(map(self.num_targets, rows))
        for number, module in enumerate(guided):
            query, key, _ = (states[:, self.heads[number][1]] for states in projected[module])
            missed = self._attention_loss(number, rows, query, key)
            self.attention_loss[number] = missed.item()
            loss = loss + self.weight / len(self.heads) * num_targets * missed
        return loss

    def _attention_loss(self, number: int, rows: Sequence[TokenRow], query: Tensor, key: Tensor) -> Tensor:
        """Nats a token: half of those that have something to read, half of those that have not.

        query, key: (T, head dim) of the guided head with that number.
        """
        found: list[Tensor] = []
        sinks: list[bool] = []
        start = 0
        for row in rows:
            places = self.looks[row.key][number] if row.key in self.looks else {}
            if places:
                tokens = torch.tensor(list(places))
                logits = query[start + tokens] @ key[start : start + len(row.ids)].T / query.shape[1] ** 0.5
                if self.model.config.is_decoder:
                    logits = logits.masked_fill(torch.arange(len(row.ids)) > tokens[:, None], -torch.inf)
                asking = torch.tensor([n for n, some in enumerate(places.values()) for _ in some])
                read = torch.tensor([place for some in places.values() for place in some])
                share = torch.tensor([1 / len(some) for some in places.values() for _ in some])
                chances = logits.log_softmax(dim=1)[asking, read] * share
                found.append(torch.zeros(len(tokens)).index_add(0, asking, chances))
                sinks += [tuple(some) == (0,) for some in places.values()]
            start += len(row.ids)
        if not found:
            return query.sum() * 0
        is_sink = torch.tensor(sinks)
        each = torch.cat(found)
        return -sum(each[chosen].mean() for chosen in (is_sink, ~is_sink) if chosen.any()) / 2


def train(job: Job, go_on: bool) -> Any:
    """The model after all steps. go_on: leave its heads as they are, else they begin anew."""
    plan = plan_job(job)
    tokenizer = BigBirdTokenizer.from_pretrained(job.model)
    to_rows = make_rows(job, plan.labels, plan.problem_type, plan.max_length)
    rows, looks = [], {}
    for document in read_documents(job.train, "train"):
        of_document, _ = to_rows.rows([document])
        rows += of_document
        looks |= looks_of(job.task, document, of_document, tokenizer)
    model = new_model(job, plan)
    for layer, head in () if go_on else GUIDED[job.task]:
        begin_alike(model.bert.encoder.layer[layer].attention.self, head, seed=layer)
    objective = GuidedObjective(model, job, looks, tokenizer.mask_token_id)
    run = Run(objective, rows, job.options)
    while not run.is_finished:
        loss = run.advance()
        if run.step % 20 == 0:
            heads = ", ".join(f"{missed:.3f}" for missed in objective.attention_loss)
            print(f"step {run.step}/{len(run.steps)} loss {loss:.3f}, of it attention {heads}", flush=True)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--go-on", action="store_true")
    own, rest = parser.parse_known_args()
    job = parse(rest)
    output = Path(job.output)
    train(job, own.go_on).eval().save_pretrained(output)
    for name in TOKENIZER_FILES:
        shutil.copyfile(Path(job.model) / name, output / name)


if __name__ == "__main__":
    main()
