"""The loss of each task over rows of tokens, as a sum over targets. Knows no steps and no workers."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

from bigbird.heads import QUESTION_PENALTY
from bigbird.packing import PackedBatch, pack
from pipelines.finetuning.documents import MULTIPLE, REGRESSION, Task
from pipelines.finetuning.options import TrainingOptions
from pipelines.finetuning.token_rows import IGNORED, TokenRow


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
            return int((row.targets != IGNORED).sum())
        if self.task in ("masked-lm", "causal-lm"):
            return len(row.ids) - 1 if self.task == "causal-lm" else len(self._hidden(row, 0))
        return 1

    def loss_sum(self, rows: Sequence[TokenRow], step: int) -> Tensor:
        """The summed loss of some rows, a scalar. `step` decides which tokens masked-lm hides."""
        device = self.model.device
        ids = [row.ids.tolist() for row in rows]
        places: list[int] = []
        if self.task == "masked-lm":
            start = 0
            for row, shown in zip(rows, ids, strict=True):
                for place, instead in self._hidden(row, step).items():
                    shown[place] = instead
                    places.append(start + place)
                start += len(shown)
        packed = pack(
            [part for row, shown in zip(rows, ids, strict=True) for part in _by_lengths(row, shown)],
            [part for row in rows for part in _by_lengths(row, row.token_type_ids.tolist())],
            device=device,
        )
        hidden = self.model.bert.encode(packed)
        if self.task == "token-classification":
            targets = torch.from_numpy(np.concatenate([row.targets for row in rows])).to(device).long()
            logits = self.model.classifier(self.model.dropout(hidden)).float()
            return cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
        if self.task == "text-classification":
            return self._classification(self.model.classifier(hidden[packed.first_tokens]).float(), rows)
        if self.task == "multiple-choice":
            pooled = self.model.bert.pool(hidden[packed.first_tokens])
            return self._choice(self.model.classifier(self.model.dropout(pooled))[:, 0].float(), rows)
        if self.task == "question-answering":
            return self._answer(self.model.qa_classifier(hidden).float(), packed, rows)
        original = torch.from_numpy(np.concatenate([row.ids for row in rows])).to(device).long()
        if self.task == "masked-lm":
            index = torch.tensor(places, device=device)
            return cross_entropy(self.model.cls(hidden[index]).float(), original[index], reduction="sum")
        last = torch.tensor([*packed.starts[1:], packed.num_tokens], device=device) - 1
        keep = torch.ones(packed.num_tokens, dtype=torch.bool, device=device)
        keep[last] = False
        index = keep.nonzero().squeeze(1)
        return cross_entropy(self.model.cls(hidden[index]).float(), original[index + 1], reduction="sum")

    def _classification(self, logits: Tensor, rows: Sequence[TokenRow]) -> Tensor:
        targets = torch.from_numpy(np.stack([row.targets for row in rows])).to(logits.device, torch.float32)
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
            places = torch.from_numpy(row.targets).to(logits.device).long()
            losses.append(cross_entropy(of_row.T, places, reduction="mean"))
        return torch.stack(losses).sum()

    def _hidden(self, row: TokenRow, step: int) -> dict[int, int]:
        """The hidden places of a row, and what stands there instead: [MASK] in 80 %, any token in 10 %, itself in 10 %.

        As BERT (Devlin et al., 2018, 3.1). The same for a row and a step wherever the row is trained; always as many.
        """
        assert self.mask_token_id is not None
        draw = np.random.default_rng((self.options.seed, step, int(row.key[:12], 16)))
        inside = len(row.ids) - 2
        count = min(inside, max(1, round(inside * self.options.mask_share)))
        places = 1 + draw.choice(inside, size=count, replace=False)
        kinds, drawn = draw.random(count), draw.integers(self.model.config.vocab_size, size=count)
        shown = np.where(kinds < 0.8, self.mask_token_id, np.where(kinds < 0.9, drawn, row.ids[places]))
        return dict(sorted(zip(places.tolist(), shown.tolist(), strict=True)))


def _by_lengths(row: TokenRow, values: Sequence[int]) -> Iterator[list[int]]:
    """What a row holds for each of its tokens, one list for each row the model reads."""
    start = 0
    for length in row.lengths:
        yield list(values[start : start + length])
        start += length
