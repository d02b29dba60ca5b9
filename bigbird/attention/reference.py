"""Dense attention by the plan's own counts: the oracle, and the source of attention probabilities.

Builds (num_heads, n, n) matrices a row, so it is slow and large for long rows; every other implementation must
give its results. Differentiable, on any device, with dropout.
"""

import torch
from torch import Tensor

from bigbird.attention.plan import AttentionPlan

MASKED = -10000.0
"""Added to the scores of masked keys. Finite, so that a row without a single key to read stays free of NaN."""


class DenseAttention:
    """Attention of one packed batch, row by row, with the full matrix of scores.

    attended: (T,) bool, False for tokens no query may read; None when all may be read.
    record: keep each layer's probabilities in `probabilities`.
    """

    def __init__(
        self, plan: AttentionPlan, attended: Tensor | None = None, *, dropout: float = 0.0, record: bool = False
    ) -> None:
        self.plan = plan
        self.attended = attended
        self.dropout = dropout
        self.record = record
        self.probabilities: list[list[Tensor]] = []
        """Per layer and row: (num_heads, n, n), before dropout, rows summing to one."""

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query, key, value: (T, num_heads, head_dim) -> context of the same shape."""
        contexts, recorded = [], []
        for row, length in enumerate(self.plan.lengths):
            tokens = slice(self.plan.starts[row], self.plan.starts[row] + length)
            q, k, v = (states[tokens].transpose(0, 1) for states in (query, key, value))
            scores = q @ k.transpose(1, 2) * q.shape[-1] ** -0.5 + self._bias(row, layer, query)
            if self.attended is not None:
                scores = scores.masked_fill(~self.attended[tokens], MASKED)
            probabilities = scores.softmax(-1)
            recorded.append(probabilities)
            kept = torch.dropout(probabilities, self.dropout, train=self.dropout > 0)
            contexts.append((kept @ v).transpose(0, 1))
        if self.record:
            self.probabilities.append(recorded)
        return torch.cat(contexts)

    def _bias(self, row: int, layer: int, like: Tensor) -> Tensor:
        """log(how often a query reads a key): (num_heads, n, n), -inf where it does not."""
        length = self.plan.lengths[row]
        counts = torch.from_numpy(self.plan.key_counts(row, layer)).to(like.device)
        block = torch.arange(length, device=like.device) // self.plan.config.block_size
        by_token = counts[:, block[:, None], block]
        if self.plan.config.is_decoder:
            by_token = by_token.tril()
        return by_token.to(like.dtype).log()
