"""The next token of many requests at once, each by its own options, and how likely it was.

Legend: R rows, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from bigbird.generation.request import Request
from bigbird.generation.sampling import TokenLogprob, logprobs_of, sample, warp


def choose(logits: Tensor, requests: Sequence[Request]) -> list[tuple[int, TokenLogprob | None]]:
    """Each row's next token by its own options, and its log-probability where asked for. logits: (R, V), float32."""
    scores = logits
    changed = [row for row, request in enumerate(requests) if request.processors]
    if changed:
        scores = logits.clone()
        for row in changed:
            scores[row] = requests[row].process(logits[row])
    tokens = torch.from_numpy(scores.numpy().argmax(-1))  # of a vocabulary, a seventh of the time of torch's argmax
    drawn: dict[tuple[float, ...], list[int]] = {}  # rows of one distribution are drawn together
    reported: dict[int, list[int]] = {}
    for row, request in enumerate(requests):
        if request.options.logprobs:
            reported.setdefault(request.options.num_top_logprobs, []).append(row)
        if request.options.temperature > 0:
            asked = request.options
            drawn.setdefault((asked.temperature, asked.top_k, asked.top_p, asked.min_p), []).append(row)
        if request.scores is not None:
            sampled = request.options.temperature > 0
            of_row = scores[row : row + 1]
            request.scores.append(warp(of_row, request.options) if sampled else of_row.clone())
    for rows in drawn.values():
        index = torch.tensor(rows, device=logits.device)
        uniforms = torch.tensor([requests[row].uniform() for row in rows], dtype=torch.float64)
        tokens[index] = sample(scores[index], requests[rows[0]].options, uniforms)
    logprobs: list[TokenLogprob | None] = [None] * len(requests)
    for num_top, rows in reported.items():
        index = torch.tensor(rows, device=logits.device)
        for row, item in zip(rows, logprobs_of(logits[index], tokens[index], num_top), strict=True):
            logprobs[row] = item
    return list(zip(tokens.tolist(), logprobs, strict=True))
