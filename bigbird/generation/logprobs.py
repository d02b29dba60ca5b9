"""How likely tokens are under the model itself: before bias, penalty and temperature.

Knows logits, no requests and no text. Legend: R rows, V vocabulary.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class TokenLogprob:
    """A token's log-probability after the tokens before it.

    top: the likeliest tokens in its place with their log-probabilities, the likeliest first.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


def logprobs_of(logits: Tensor, tokens: Tensor, num_top: int) -> list[TokenLogprob]:
    """Of a token a row. logits: (R, V), float32; tokens: (R,), int64."""
    total = logits.logsumexp(-1, keepdim=True)
    values = (logits.gather(1, tokens[:, None]) - total)[:, 0].tolist()
    top, top_ids = logits.topk(min(num_top, logits.shape[-1]), dim=-1)
    return [
        TokenLogprob(token, value, tuple(zip(ids, numbers, strict=True)))
        for token, value, ids, numbers in zip(
            tokens.tolist(), values, top_ids.tolist(), (top - total).tolist(), strict=True
        )
    ]
