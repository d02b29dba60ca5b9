"""One decoding step: a pass of the model over new tokens of many sequences, and the choice of what comes next.

Knows neither what came before nor who is served when. Legend: R rows, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bigbird.attention.cached import CachedAttention, CachedCrossAttention
from bigbird.attention.kv_cache import KVCache
from bigbird.generation.continuation import Continuation
from bigbird.generation.options import GenerationOptions
from bigbird.generation.sampling import draw, penalise_repetition, warp

PAGE_SIZE = 64


@dataclass(frozen=True)
class Piece:
    """New tokens of one sequence in a pass of the model; `is_last`: the logits after them are wanted."""

    sequence: int
    token_ids: Sequence[int]
    is_last: bool = True


def make_cache(model: Any, max_tokens: int) -> KVCache:
    """An empty cache for a model."""
    config = model.config
    return KVCache(
        num_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        head_dim=config.head_dim,
        max_tokens=max_tokens,
        page_size=PAGE_SIZE,
        dtype=model.dtype,
        device=model.device,
    )


@torch.inference_mode()
def run(model: Any, cache: KVCache, pieces: Sequence[Piece], cross: CachedCrossAttention | None = None) -> Tensor:
    """One pass over new tokens, whose keys and values join the cache.

    Returns the next token's logits, (R, V), for the pieces with `is_last`, in their order.
    """
    attend = CachedAttention(cache, [(piece.sequence, len(piece.token_ids)) for piece in pieces])
    ids = torch.tensor([token for piece in pieces for token in piece.token_ids], device=attend.position_ids.device)
    hidden = model.bert.embeddings(ids, torch.zeros_like(ids), attend.position_ids)
    if cross is None:
        hidden = model.bert.encoder(hidden, attend)
    else:
        cross.begin([(piece.sequence, len(piece.token_ids)) for piece in pieces])
        hidden = model.bert.encoder(hidden, attend, cross=cross)
    ends, end = [], 0
    for piece in pieces:
        end += len(piece.token_ids)
        if piece.is_last:
            ends.append(end - 1)
    if not ends:
        return torch.empty(0, model.config.vocab_size, device=ids.device)
    logits: Tensor = model.cls(hidden if len(ends) == len(hidden) else hidden[torch.tensor(ends, device=ids.device)])
    return logits


@torch.inference_mode()
def select_tokens(logits: Tensor, continuations: Sequence[Continuation]) -> list[tuple[int, float | None]]:
    """Each row's next token by its own options, and its log-probability where asked for. logits: (R, V)."""
    logits = logits.float()
    scores = logits
    changed = [row for row, c in enumerate(continuations) if c.seen is not None or c.forbids_eos]
    if changed:
        scores = logits.clone()
        for row in changed:
            scores[row] = _processed(logits[row], continuations[row])
    tokens = scores.argmax(-1)
    drawn: dict[GenerationOptions, list[int]] = {}
    for row, continuation in enumerate(continuations):
        if continuation.options.temperature > 0:
            drawn.setdefault(_distribution(continuation.options), []).append(row)
    for options, rows in drawn.items():
        index = torch.tensor(rows, device=logits.device)
        uniforms = torch.tensor([continuations[row].uniform() for row in rows], dtype=torch.float64)
        tokens[index] = draw(warp(scores[index], options), uniforms)
    chosen: list[int] = tokens.tolist()
    logprobs: list[float | None] = [None] * len(chosen)
    reported = [row for row, continuation in enumerate(continuations) if continuation.options.logprobs]
    if reported:
        index = torch.tensor(reported, device=logits.device)
        values = logits[index, tokens[index]] - logits[index].logsumexp(-1)
        for row, value in zip(reported, values.tolist(), strict=True):
            logprobs[row] = value
    return list(zip(chosen, logprobs, strict=True))


def _processed(logits: Tensor, continuation: Continuation) -> Tensor:
    """(V,) -> (V,): repetition penalty, and no end before min_new_tokens."""
    if continuation.seen is not None:
        seen = continuation.seen.to(logits.device)
        logits = penalise_repetition(logits, seen, continuation.options.repetition_penalty)
    if continuation.forbids_eos:
        logits = logits.clone()
        logits[list(continuation.eos_token_ids)] = -torch.inf
    return logits


def _distribution(options: GenerationOptions) -> GenerationOptions:
    """Options that shape the distribution alone, so that rows with equal ones are processed together."""
    return GenerationOptions(
        temperature=options.temperature, top_k=options.top_k, top_p=options.top_p, min_p=options.min_p
    )
