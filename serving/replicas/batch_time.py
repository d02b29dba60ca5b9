"""How long a batch takes, learned from the batches before it. Pure arithmetic."""

from __future__ import annotations

import math

# Of one batch to the next: the last twenty batches or so count.
_KEPT = 0.95
# Batches whose sizes differ by less than about so many tokens say nothing of what a token costs.
_SPREAD_TOKENS = 256.0


class BatchTime:
    """A batch takes `a + b * tokens` seconds: least squares over the last batches, 0 s before the first.

    Where all batches had about the same size, b is 0: the cost of a token is then unknown, and a guess from noise
    would refuse long requests that could be answered.
    """

    def __init__(self) -> None:
        self._weight = self._tokens = self._seconds = self._tokens_squared = self._product = 0.0

    def add(self, tokens: int, seconds: float) -> None:
        """Takes in one batch."""
        self._weight = _KEPT * self._weight + 1.0
        self._tokens = _KEPT * self._tokens + tokens
        self._seconds = _KEPT * self._seconds + seconds
        self._tokens_squared = _KEPT * self._tokens_squared + tokens**2
        self._product = _KEPT * self._product + tokens * seconds

    def seconds(self, tokens: int, max_tokens_per_batch: int) -> float:
        """Estimated time of so many tokens, in as many batches as they need; 0 for none."""
        if not tokens or not self._weight:
            return 0.0
        mean_tokens, mean_seconds = self._tokens / self._weight, self._seconds / self._weight
        covariance = self._product / self._weight - mean_tokens * mean_seconds
        variance = self._tokens_squared / self._weight - mean_tokens**2
        per_token = max(0.0, covariance / (max(variance, 0.0) + _SPREAD_TOKENS**2))
        # A line through the mean; it must not say that an empty batch takes less than no time.
        per_token = min(per_token, mean_seconds / mean_tokens) if mean_tokens else 0.0
        per_batch = mean_seconds - per_token * mean_tokens
        return math.ceil(tokens / max_tokens_per_batch) * per_batch + per_token * tokens
