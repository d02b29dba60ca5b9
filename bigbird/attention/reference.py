"""Dense attention by the plan's own counts: the oracle, and the source of attention probabilities.

Builds (num_heads, n, n) matrices a row, so it is slow and large for long rows; every other implementation must
give its results. Differentiable, on any device, with dropout.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from bigbird.attention.plan import AttentionPlan

MASKED = -10000.0
"""Added to the scores of masked keys. Finite, so that a row without a single key to read stays free of NaN."""


class DenseAttention:
    """Attention of one packed batch, row by row, with the full matrix of scores.

    attended: (T,) bool, False for tokens no query may read; None when all may be read.
    record_width: keep each layer's probabilities in `probabilities`, every row padded to so many tokens.
    """

    def __init__(
        self,
        plan: AttentionPlan,
        attended: Tensor | None = None,
        *,
        dropout: float = 0.0,
        record_width: int | None = None,
    ) -> None:
        self.plan = plan
        self.attended = attended
        self.dropout = dropout
        self.record_width = record_width
        self.probabilities: list[Tensor] = []
        """Per layer: (rows, num_heads, width, width), before dropout, summing to one; zeros outside a row."""

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query, key, value: (T, num_heads, head_dim) -> context of the same shape."""
        rows = [slice(start, start + n) for start, n in zip(self.plan.starts, self.plan.lengths, strict=True)]
        probabilities = []
        for row, tokens in enumerate(rows):
            q, k = (states[tokens].transpose(0, 1) for states in (query, key))
            scores = q @ k.transpose(1, 2) * q.shape[-1] ** -0.5 + self._bias(row, layer, query)
            if self.attended is not None:
                scores = scores.masked_fill(~self.attended[tokens], MASKED)
            probabilities.append(scores.softmax(-1))
        if self.record_width is not None:
            margins = (self.record_width - length for length in self.plan.lengths)
            pairs = zip(probabilities, margins, strict=True)
            recorded = torch.stack([F.pad(of_row, (0, margin, 0, margin)) for of_row, margin in pairs])
            self.probabilities.append(recorded)
            # What is recorded is what is used, so that gradients reach it.
            probabilities = [recorded[row, :, :n, :n] for row, n in enumerate(self.plan.lengths)]
        contexts = []
        for tokens, of_row in zip(rows, probabilities, strict=True):
            kept = torch.dropout(of_row, self.dropout, train=self.dropout > 0)
            contexts.append((kept @ value[tokens].transpose(0, 1)).transpose(0, 1))
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
