"""Rules that change the next token's scores by what stands before it, as transformers' processors of the same names.

A processor is any callable of token ids (R, n), int64, and scores (R, V), float32, that returns scores (R, V); those of
transformers are such. Each row goes by itself. Legend: R rows, n tokens so far, V vocabulary.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bigbird.generation.options import GenerationOptions

Processor = Callable[[Tensor, Tensor], Tensor]


def processors_of(options: GenerationOptions, eos_token_ids: tuple[int, ...], prompt_length: int) -> list[Processor]:
    """Those that the options ask for, in transformers' order."""
    found: list[Processor] = []
    if options.logit_bias:
        found.append(lambda ids, scores: add_bias(scores, options.logit_bias))
    if options.repetition_penalty != 1.0:
        found.append(lambda ids, scores: penalise_repetition(ids, scores, options.repetition_penalty))
    if options.no_repeat_ngram_size:
        found.append(lambda ids, scores: forbid_repeated_ngrams(ids, scores, options.no_repeat_ngram_size))
    if words := [list(word) for word in options.bad_words_ids if word not in [(token,) for token in eos_token_ids]]:
        found.append(lambda ids, scores: forbid_words(ids, scores, words))
    if options.min_new_tokens and eos_token_ids:
        until, ends = prompt_length + options.min_new_tokens, list(eos_token_ids)
        found.append(lambda ids, scores: forbid_end(ids, scores, ends, until))
    return found


def add_bias(scores: Tensor, pairs: Sequence[tuple[int, float]]) -> Tensor:
    """Each token's number added to its score."""
    tokens, numbers = zip(*pairs, strict=True)
    bias = torch.tensor(numbers, dtype=scores.dtype, device=scores.device)
    return scores.index_add(1, torch.tensor(tokens, device=scores.device), bias.expand(len(scores), -1))


def penalise_repetition(ids: Tensor, scores: Tensor, penalty: float) -> Tensor:
    """Make tokens seen before less likely: positive scores are divided by the penalty, negative ones multiplied."""
    seen = scores.gather(1, ids)
    return scores.scatter(1, ids, torch.where(seen < 0, seen * penalty, seen / penalty))


def forbid_repeated_ngrams(ids: Tensor, scores: Tensor, size: int) -> Tensor:
    """No token that would make the last `size` tokens ones that stood together before."""
    if ids.shape[1] < size:
        return scores
    scores = scores.clone()
    for row, ngrams in enumerate(ids.unfold(1, size, 1)):
        begins_alike = (ngrams[:, :-1] == ids[row, ids.shape[1] - size + 1 :]).all(-1)
        scores[row, ngrams[begins_alike, -1]] = -torch.inf
    return scores


def forbid_words(ids: Tensor, scores: Tensor, words: list[list[int]]) -> Tensor:
    """No last token of a word whose other tokens are the last ones."""
    scores = scores.clone()
    for *before, last in words:
        if len(before) <= ids.shape[1]:
            follows = (ids[:, ids.shape[1] - len(before) :] == torch.tensor(before, device=ids.device)).all(-1)
            scores[follows, last] = -torch.inf
    return scores


def forbid_end(ids: Tensor, scores: Tensor, ends: list[int], until: int) -> Tensor:
    """No end-of-sequence token before `until` tokens."""
    if ids.shape[1] >= until:
        return scores
    scores = scores.clone()
    scores[:, ends] = -torch.inf
    return scores
