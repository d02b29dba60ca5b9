"""From logits to the next token: temperature, top-k, top-p, min-p, the draw, and how likely a token was.

Works on many rows at once, each by itself. Where top-k or top-p leave few tokens, only those are looked at after one
`topk`; the vocabulary is sorted only where the most likely tokens do not decide. The distributions are those of
transformers' processors in their order.

Knows no requests and keeps no state. Legend: R rows, V vocabulary, K candidates.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bigbird.generation.options import GenerationOptions

_MOST_LIKELY = 1024
"""Tokens looked at before top-p sorts the whole vocabulary; together they nearly always weigh more than p."""


def candidates(scores: Tensor, options: GenerationOptions) -> tuple[Tensor, Tensor | None]:
    """What a token is drawn from, by temperature (above 0), top_k, top_p and min_p.

    scores: (R, V), float32 -> scores (R, K) with a maximum of 0, of which a softmax gives the probabilities, -inf
    where excluded; and their tokens (R, K), None where the K are the whole vocabulary in its order.
    """
    # Shifted to a maximum of 0 first, which changes no probability and keeps small temperatures from overflowing.
    # One that float32 would round to 0 is the smallest number that it does not.
    temperature = max(options.temperature, torch.finfo(scores.dtype).tiny)
    scores = (scores - scores.amax(-1, keepdim=True)) / temperature
    vocabulary = scores.shape[-1]
    tokens = None
    if 0 < options.top_k < vocabulary:
        scores, tokens = scores.topk(options.top_k, dim=-1)
    if options.top_p < 1:
        scores, order = _top_p(scores, options.top_p, scores.shape[-1] if tokens is not None else _MOST_LIKELY)
        tokens = order if tokens is None else tokens.gather(1, order)
    if options.min_p > 0:
        # Relative to a maximum of 0, probabilities are the exponentials themselves.
        scores = scores.masked_fill(scores.exp() < options.min_p, -torch.inf)
    return scores, tokens


def _top_p(scores: Tensor, top_p: float, num_candidates: int) -> tuple[Tensor, Tensor]:
    """Keep a token when those more likely than it weigh less than top_p together: scores (R, K), their places."""
    kept, order = scores.topk(min(num_candidates, scores.shape[-1]), dim=-1)
    probabilities = (kept - scores.logsumexp(-1, keepdim=True)).exp()
    wanted = probabilities.cumsum(-1) - probabilities < top_p
    if kept.shape[-1] < scores.shape[-1] and bool(wanted[:, -1].any()):
        return _top_p(scores, top_p, scores.shape[-1])
    wanted[:, 0] = True
    return kept.masked_fill(~wanted, -torch.inf), order


def warp(scores: Tensor, options: GenerationOptions) -> Tensor:
    """The same over the vocabulary: (R, V) -> (R, V), -inf where excluded."""
    kept, tokens = candidates(scores, options)
    return kept if tokens is None else torch.full_like(scores, -torch.inf).scatter_(-1, tokens, kept)


def sample(scores: Tensor, options: GenerationOptions, uniforms: Tensor) -> Tensor:
    """Draw a token a row. scores: (R, V); uniforms: (R,), float64, each from [0, 1) -> (R,), int64."""
    kept, tokens = candidates(scores, options)
    places = draw(kept, uniforms)
    return places if tokens is None else tokens.gather(1, places[:, None])[:, 0]


def draw(scores: Tensor, uniforms: Tensor) -> Tensor:
    """Draw a place a row with softmax(scores) as probabilities.

    scores: (R, K); uniforms: (R,), float64, each from [0, 1): the row's own chance -> (R,), int64. A row's place
    depends on its scores and its uniform alone.
    """
    cumulative = (scores - scores.amax(-1, keepdim=True)).double().exp().cumsum(-1)
    # Below 1 times the total is below the total, also when rounded: a possible token. NaN alone points past the end.
    targets = uniforms[:, None].to(scores.device) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, targets, right=True)[:, 0].clamp_(max=scores.shape[-1] - 1)


@dataclass(frozen=True)
class TokenLogprob:
    """A token's log-probability after the tokens before it.

    top: the likeliest tokens in its place with their log-probabilities, the likeliest first.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


def logprobs_of(logits: Tensor, tokens: Tensor, num_top: int) -> list[TokenLogprob]:
    """Of a token a row, under the model itself. logits: (R, V), float32, as they are; tokens: (R,), int64."""
    total = logits.logsumexp(-1, keepdim=True)
    values = (logits.gather(1, tokens[:, None]) - total)[:, 0].tolist()
    top, top_ids = logits.topk(min(num_top, logits.shape[-1]), dim=-1)
    return [
        TokenLogprob(token, value, tuple(zip(ids, numbers, strict=True)))
        for token, value, ids, numbers in zip(
            tokens.tolist(), values, top_ids.tolist(), (top - total).tolist(), strict=True
        )
    ]
