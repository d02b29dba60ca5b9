"""From logits to the next token: what a request changes in the scores, the draw, and how likely a token was.

One token at a time, whose scores stay in the processor's cache: many at once take longer. Changes of scores and
distributions are those of transformers' processors of the same names.

Knows no requests and keeps no state. Legend: R rows, n tokens so far, V vocabulary.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import threshold

from bigbird.generation.options import GenerationOptions

Processor = Callable[[Tensor, Tensor], Tensor]
"""Token ids (R, n), int64, and scores (R, V), float32 -> scores (R, V); those of transformers are such."""


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
    """Exclude tokens that would repeat an n-gram of `size` tokens."""
    if ids.shape[1] < size:
        return scores
    ngrams = ids.unfold(1, size, 1)  # (R, n - size + 1, size)
    begins_alike = (ngrams[..., :-1] == ids[:, None, ids.shape[1] - size + 1 :]).all(-1)
    rows, places = begins_alike.nonzero(as_tuple=True)
    return scores.index_put((rows, ngrams[rows, places, -1]), scores.new_tensor(-torch.inf))


def forbid_words(ids: Tensor, scores: Tensor, words: Sequence[tuple[int, ...]]) -> Tensor:
    """Exclude the last token of a word whose other tokens were just generated."""
    scores = scores.clone()
    for *before, last in words:
        if len(before) <= ids.shape[1]:
            follows = (ids[:, ids.shape[1] - len(before) :] == torch.tensor(before)).all(-1)
            scores[follows, last] = -torch.inf
    return scores


def forbid_end(ids: Tensor, scores: Tensor, ends: Sequence[int], until: int) -> Tensor:
    """Exclude end-of-sequence tokens before there are `until` tokens."""
    return scores if ids.shape[1] >= until else scores.index_fill(1, torch.tensor(ends), -torch.inf)


def warp(scores: Tensor, options: GenerationOptions) -> Tensor:
    """What a token is drawn from, by temperature (above 0), top_k, top_p and min_p.

    scores: (V,), float32 -> (V,) with a maximum of 0, of which a softmax gives the probabilities, -inf where excluded.
    top_k, top_p and min_p become one least score: equally likely tokens stay or go together.
    """
    # Shifted to a maximum of 0 first, which changes no probability and keeps small temperatures from overflowing.
    # A temperature that float32 rounds to 0 is replaced by the smallest normal float32.
    scores = (scores - scores.amax()).div_(max(options.temperature, torch.finfo(scores.dtype).tiny))
    least = math.log(options.min_p) if options.min_p else -math.inf
    if options.top_k or options.top_p < 1:
        if options.top_k:
            likeliest = scores.topk(min(options.top_k, len(scores))).values
        else:  # numpy sorts a vocabulary in a twentieth of torch's time
            likeliest = -torch.from_numpy(np.sort(-scores.numpy()))
        sums = likeliest.exp().cumsum(0)
        # The last kept token is the one whose cumulative probability reaches top_p of what top_k keeps.
        share = options.top_p * float(sums[-1]) if options.top_p < 1 else math.inf
        last = min(int(torch.searchsorted(sums, share)), len(sums) - 1)
        least = max(least, float(likeliest[last]))
    # `threshold`, a tenth of the time of `masked_fill`, leaves what is above the number before the least.
    return threshold(scores, float(np.nextafter(np.float32(least), np.float32(-np.inf))), -math.inf)


def draw(scores: Tensor, chance: float) -> int:
    """Draw a token with softmax(scores) as probabilities. scores: (V,); chance: from [0, 1), decides."""
    sums = scores.softmax(0).cumsum(0, dtype=torch.float64)
    # A chance below 1 gives an index within the vocabulary, also when rounded; only NaN runs past the end.
    return min(int(torch.searchsorted(sums, chance * float(sums[-1]), right=True)), len(sums) - 1)


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
