"""From logits to the next token: penalty, temperature, top-k, top-p, min-p, and the draw.

Works on many rows at once, each by itself; no loop over the vocabulary, and no sort of it where the most likely
tokens decide. The processed distributions are those of transformers' processors in their order.

Knows no sequences and keeps no state. Legend: R rows, V vocabulary.
"""

import torch
from torch import Tensor

from bigbird.generation.options import GenerationOptions

_MOST_LIKELY = 1024
"""Tokens looked at before top-p sorts the whole vocabulary; together they nearly always weigh more than p."""


def penalise_repetition(scores: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make tokens seen before less likely: positive scores are divided by the penalty, negative ones multiplied.

    scores: (..., V), float; seen: (..., V), bool -> (..., V).
    """
    return torch.where(seen, torch.where(scores < 0, scores * penalty, scores / penalty), scores)


def warp(scores: Tensor, options: GenerationOptions) -> Tensor:
    """Apply temperature, top_k, top_p and min_p, for a temperature above 0.

    scores: (R, V), float32 -> (R, V) of which a softmax gives the probabilities to draw by; -inf where excluded.
    """
    # Shifted to a maximum of 0 first, which changes no probability and keeps small temperatures from overflowing.
    scores = (scores - scores.amax(-1, keepdim=True)) / options.temperature
    vocabulary = scores.shape[-1]
    if 0 < options.top_k < vocabulary:
        least = scores.topk(options.top_k, dim=-1).values[:, -1:]
        scores = scores.masked_fill(scores < least, -torch.inf)
    if options.top_p < 1:
        scores = _top_p(scores, options.top_p, min(_MOST_LIKELY, vocabulary))
    if options.min_p > 0:
        # Relative to a maximum of 0, probabilities are the exponentials themselves.
        scores = scores.masked_fill(scores.exp() < options.min_p, -torch.inf)
    return scores


def _top_p(scores: Tensor, top_p: float, num_candidates: int) -> Tensor:
    """Keep a token when those more likely than it weigh less than top_p together."""
    candidates, tokens = scores.topk(num_candidates, dim=-1)
    probabilities = (candidates - scores.logsumexp(-1, keepdim=True)).exp()
    kept = probabilities.cumsum(-1) - probabilities < top_p
    if num_candidates < scores.shape[-1] and bool(kept[:, -1].any()):
        return _top_p(scores, top_p, scores.shape[-1])
    kept[:, 0] = True
    chosen = torch.full_like(scores, -torch.inf)
    return chosen.scatter_(-1, tokens, candidates.masked_fill(~kept, -torch.inf))


def draw(scores: Tensor, uniforms: Tensor) -> Tensor:
    """Draw a token a row with softmax(scores) as probabilities.

    scores: (R, V); uniforms: (R,), float64, each from [0, 1): the row's own chance -> (R,), int64. A row's token
    depends on its scores and its uniform alone.
    """
    cumulative = scores.softmax(-1).double().cumsum(-1)
    # Below 1 times the total is below the total, also when rounded: a possible token. NaN alone points past the end.
    targets = uniforms[:, None].to(scores.device) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, targets, right=True)[:, 0].clamp_(max=scores.shape[-1] - 1)
