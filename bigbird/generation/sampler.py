"""From logits to the next token: what a request changes in the scores, the draw, and how likely a token was.

Works on many rows at once, each by itself. Where top-k or top-p leave few tokens, only those are looked at after one
`topk`; the vocabulary is sorted only where the most likely tokens do not decide. Changes of scores and distributions
are those of transformers' processors of the same names.

Knows no requests and keeps no state. Legend: R rows, n tokens so far, V vocabulary, K candidates.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from bigbird.generation.options import GenerationOptions

Processor = Callable[[Tensor, Tensor], Tensor]
"""Token ids (R, n), int64, and scores (R, V), float32 -> scores (R, V); those of transformers are such."""

_MOST_LIKELY = 1024
"""Tokens looked at before top-p sorts the whole vocabulary; together they nearly always weigh more than p."""


def processors_of(options: GenerationOptions, eos_token_ids: tuple[int, ...], prompt_length: int) -> list[Processor]:
    """Those that the options ask for, in transformers' order."""
    found: list[Processor] = []
    if options.logit_bias:
        found.append(partial(add_bias, pairs=options.logit_bias))
    if options.repetition_penalty != 1.0:
        found.append(partial(penalise_repetition, penalty=options.repetition_penalty))
    if options.no_repeat_ngram_size:
        found.append(partial(forbid_repeated_ngrams, size=options.no_repeat_ngram_size))
    if words := [word for word in options.bad_words_ids if len(word) > 1 or word[0] not in eos_token_ids]:
        found.append(partial(forbid_words, words=words))
    if options.min_new_tokens and eos_token_ids:
        found.append(partial(forbid_end, ends=eos_token_ids, until=prompt_length + options.min_new_tokens))
    return found


def add_bias(ids: Tensor, scores: Tensor, pairs: Sequence[tuple[int, float]]) -> Tensor:
    """Each token's number added to its score."""
    tokens, numbers = zip(*pairs, strict=True)
    return scores.index_add(1, torch.tensor(tokens), scores.new_tensor(numbers).expand(len(scores), -1))


def penalise_repetition(ids: Tensor, scores: Tensor, penalty: float) -> Tensor:
    """Make tokens seen before less likely: positive scores are divided by the penalty, negative ones multiplied."""
    seen = scores.gather(1, ids)
    return scores.scatter(1, ids, torch.where(seen < 0, seen * penalty, seen / penalty))


def forbid_repeated_ngrams(ids: Tensor, scores: Tensor, size: int) -> Tensor:
    """No token that would make the last `size` tokens ones that stood together before."""
    if ids.shape[1] < size:
        return scores
    ngrams = ids.unfold(1, size, 1)  # (R, n - size + 1, size)
    begins_alike = (ngrams[..., :-1] == ids[:, None, ids.shape[1] - size + 1 :]).all(-1)
    rows, places = begins_alike.nonzero(as_tuple=True)
    return scores.index_put((rows, ngrams[rows, places, -1]), scores.new_tensor(-torch.inf))


def forbid_words(ids: Tensor, scores: Tensor, words: Sequence[tuple[int, ...]]) -> Tensor:
    """No last token of a word whose other tokens are the last ones."""
    scores = scores.clone()
    for *before, last in words:
        if len(before) <= ids.shape[1]:
            follows = (ids[:, ids.shape[1] - len(before) :] == torch.tensor(before)).all(-1)
            scores[follows, last] = -torch.inf
    return scores


def forbid_end(ids: Tensor, scores: Tensor, ends: Sequence[int], until: int) -> Tensor:
    """No end-of-sequence token before `until` tokens."""
    return scores if ids.shape[1] >= until else scores.index_fill(1, torch.tensor(ends), -torch.inf)


def candidates(scores: Tensor, options: GenerationOptions) -> tuple[Tensor, Tensor | None]:
    """What a token is drawn from, by temperature (above 0), top_k, top_p and min_p.

    scores: (R, V), float32 -> scores (R, K) with a maximum of 0, of which a softmax gives the probabilities, -inf
    where excluded; and their tokens (R, K), None where the K are the whole vocabulary in its order.
    """
    # Shifted to a maximum of 0 first, which changes no probability and keeps small temperatures from overflowing.
    # One that float32 would round to 0 is the smallest number that it does not.
    temperature = max(options.temperature, torch.finfo(scores.dtype).tiny)
    scores = (scores - scores.amax(-1, keepdim=True)) / temperature
    tokens = None
    if 0 < options.top_k < scores.shape[-1]:
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


def draw(scores: Tensor, uniforms: Tensor) -> Tensor:
    """Draw a place a row with softmax(scores) as probabilities.

    scores: (R, K); uniforms: (R,), float64, each from [0, 1): the row's own chance -> (R,), int64. A row's place
    depends on its scores and its uniform alone.
    """
    cumulative = (scores - scores.amax(-1, keepdim=True)).double().exp().cumsum(-1)
    # Below 1 times the total is below the total, also when rounded: a possible token. NaN alone points past the end.
    places = torch.searchsorted(cumulative, uniforms[:, None] * cumulative[:, -1:], right=True)
    return places[:, 0].clamp_(max=scores.shape[-1] - 1)


def sample(scores: Tensor, options: Sequence[GenerationOptions], chances: Sequence[float]) -> list[int]:
    """Each row's next token by its own options: the most likely at temperature 0, else one drawn.

    scores: (R, V), float32; chances: a number a row, from [0, 1).
    """
    tokens = scores.numpy().argmax(-1)  # of a vocabulary, a seventh of the time of torch's argmax
    alike: dict[tuple[float, ...], list[int]] = {}  # rows of one distribution are drawn together
    for row, asked in enumerate(options):
        if asked.temperature > 0:
            alike.setdefault((asked.temperature, asked.top_k, asked.top_p, asked.min_p), []).append(row)
    for rows in alike.values():
        kept, found = candidates(scores[rows], options[rows[0]])
        places = draw(kept, torch.tensor([chances[row] for row in rows], dtype=torch.float64))
        tokens[rows] = places if found is None else found.gather(1, places[:, None])[:, 0]
    chosen: list[int] = tokens.tolist()
    return chosen


@dataclass(frozen=True)
class TokenLogprob:
    """A token's log-probability after the tokens before it.

    top: the likeliest tokens in its place with their log-probabilities, the likeliest first.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


def logprobs_of(logits: Tensor, tokens: Sequence[int], num_top: int) -> list[TokenLogprob]:
    """Of a token a row, under the model itself. logits: (R, V), float32, as they are."""
    logprobs = logits.log_softmax(-1)
    values = logprobs[range(len(tokens)), tokens].tolist()
    top, top_ids = logprobs.topk(min(num_top, logits.shape[-1]), dim=-1)
    tops = (tuple(zip(*pair, strict=True)) for pair in zip(top_ids.tolist(), top.tolist(), strict=True))
    return [TokenLogprob(*each) for each in zip(tokens, values, tops, strict=True)]
