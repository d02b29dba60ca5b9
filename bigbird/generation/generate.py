"""Text from a causal language model: `generate` for a list of prompts, `stream` for one, token by token.

Prompts are decoded together, up to `MAX_STREAMS` at a time, on one packed axis without padding; each gives what it
gives alone. Requests that arrive over time belong to `bigbird.generation.engine`, which is built from the same parts.

Knows nothing of scheduling, HTTP or Ray.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bigbird.attention.cached import CachedCrossAttention
from bigbird.attention.kv_cache import KVCache
from bigbird.errors import InputError
from bigbird.generation.beam_search import BeamSearch
from bigbird.generation.continuation import Continuation, GenerationChunk, Tokenizer
from bigbird.generation.decoding import PAGE_SIZE, Piece, make_cache, run, select_tokens
from bigbird.generation.options import GenerationOptions

__all__ = ["GenerationChunk", "GenerationOptions", "GenerationResult", "encode_prompt", "generate", "stream"]

MAX_STREAMS = 32
PREFILL_TOKENS = 1024
"""Prompt tokens computed in one pass: enough to keep matrix products busy, few enough to bound memory."""


@dataclass(frozen=True, kw_only=True)
class GenerationResult:
    """A prompt's continuation.

    token_ids: all that was generated, an end-of-sequence token and a stop string's tokens included, which `text` is
    without. logprobs: one a token, None unless asked for.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    num_prompt_tokens: int
    logprobs: tuple[float, ...] | None = None

    @property
    def num_generated_tokens(self) -> int:
        return len(self.token_ids)


def encode_prompt(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """A text to go on with: tokenized as it is for training, [CLS] text [SEP], without the [SEP] that would end it."""
    return [tokenizer.cls_token_id, *tokenizer.encode(prompt, add_special_tokens=False)]


def generate(
    model: Any,
    tokenizer: Tokenizer | None,
    prompts: Sequence[str | Sequence[int]],
    options: GenerationOptions | None = None,
    *,
    encoder_hidden_states: Tensor | None = None,
    encoder_attention_mask: Tensor | None = None,
) -> list[GenerationResult]:
    """Continue every prompt; one result each, in order, and each what the prompt gives alone.

    model: a BigBirdForCausalLM with is_decoder, prepared for inference or not. tokenizer: None when prompts are token
    ids and no text is wanted. prompts: texts (see `encode_prompt`) or token ids, taken as they are.
    encoder_hidden_states: (len(prompts), E, hidden_size) for a model with cross-attention, and
    encoder_attention_mask: (len(prompts), E), 1 = attend.

    Raises InputError before anything is computed, naming the prompt, the limit and the value.
    """
    options = options or GenerationOptions()
    continuations = _prepare(model, tokenizer, prompts, options)
    _check_encoder(model.config, len(prompts), encoder_hidden_states, encoder_attention_mask)
    for start in range(0, len(prompts), max(MAX_STREAMS // options.num_beams, 1)):
        group = slice(start, start + max(MAX_STREAMS // options.num_beams, 1))
        cross = None
        if encoder_hidden_states is not None:
            mask = None if encoder_attention_mask is None else encoder_attention_mask[group]
            cross = CachedCrossAttention(encoder_hidden_states[group], mask)
        if options.num_beams > 1:
            _search(model, continuations[group], cross)
        else:
            for _ in _decode(model, continuations[group], cross):
                pass
    return [_result(continuation) for continuation in continuations]


def stream(
    model: Any, tokenizer: Tokenizer | None, prompt: str | Sequence[int], options: GenerationOptions | None = None
) -> Iterator[GenerationChunk]:
    """Continue one prompt, a chunk a token. The chunks' texts together are the text that `generate` returns.

    Raises InputError at once, not at the first chunk, and for beam search, which has nothing to show before its end.
    """
    options = options or GenerationOptions()
    if options.num_beams > 1:
        raise InputError(f"num_beams must be 1 to stream, got {options.num_beams}")
    _check_encoder(model.config, 1, None, None)
    return _decode(model, _prepare(model, tokenizer, [prompt], options), None)


def _prepare(
    model: Any, tokenizer: Tokenizer | None, prompts: Sequence[str | Sequence[int]], options: GenerationOptions
) -> list[Continuation]:
    if isinstance(prompts, str):
        raise InputError("prompts must be a list of prompts, got one string")
    continuations = []
    for number, prompt in enumerate(prompts):
        try:
            if isinstance(prompt, str):
                if tokenizer is None:
                    raise InputError("a text needs a tokenizer, got None")
                prompt = encode_prompt(tokenizer, prompt)
            continuations.append(Continuation(model, tokenizer, prompt, options))
        except InputError as error:
            raise InputError(f"prompt {number}: {error}") from None
    return continuations


def _check_encoder(config: Any, num_prompts: int, states: Tensor | None, mask: Tensor | None) -> None:
    """A decoder with cross-attention may run without an encoder, as its forward pass may; not the other way round."""
    if states is None:
        if mask is not None:
            raise InputError("encoder_attention_mask needs encoder_hidden_states, got None")
        return
    if not config.add_cross_attention:
        raise InputError("encoder_hidden_states need a decoder made with add_cross_attention=True")
    if states.dim() != 3 or states.shape[0] != num_prompts or states.shape[2] != config.hidden_size:
        raise InputError(
            f"encoder_hidden_states must be ({num_prompts}, encoder_length, {config.hidden_size}), "
            f"got {tuple(states.shape)}"
        )
    if mask is not None and mask.shape != states.shape[:2]:
        raise InputError(f"encoder_attention_mask must be {tuple(states.shape[:2])}, got {tuple(mask.shape)}")


def _decode(
    model: Any, continuations: Sequence[Continuation], cross: CachedCrossAttention | None
) -> Iterator[GenerationChunk]:
    """Decode all to their ends, dropping each at its own."""
    cache = make_cache(model, sum(continuation.num_tokens_at_most + PAGE_SIZE for continuation in continuations))
    running = {cache.open(c.num_tokens_at_most): c for c in continuations}
    logits = _prefill(model, cache, running, cross)
    while running:
        chosen = select_tokens(logits, list(running.values()))
        for (sequence, continuation), (token, logprob) in zip(list(running.items()), chosen, strict=True):
            yield continuation.accept(token, logprob)
            if continuation.finish_reason is not None:
                cache.free(sequence)
                del running[sequence]
        if running:
            pieces = [Piece(sequence, continuation.token_ids[-1:]) for sequence, continuation in running.items()]
            logits = run(model, cache, pieces, cross)


def _prefill(
    model: Any, cache: KVCache, prompts: dict[int, Continuation], cross: CachedCrossAttention | None
) -> Tensor:
    """Compute the prompts of new sequences; the logits after each, (len(prompts), V)."""
    if cross is not None:
        cross.row_of = {sequence: row for row, sequence in enumerate(prompts)}
    logits = []
    pieces: list[Piece] = []
    room = PREFILL_TOKENS
    for sequence, continuation in prompts.items():
        ids = continuation.prompt_ids
        start = 0
        while start < len(ids):
            part = ids[start : start + room]
            start += len(part)
            room -= len(part)
            pieces.append(Piece(sequence, part, is_last=start == len(ids)))
            if not room:
                logits.append(run(model, cache, pieces, cross))
                pieces, room = [], PREFILL_TOKENS
    if pieces:
        logits.append(run(model, cache, pieces, cross))
    return torch.cat(logits)


def _search(model: Any, continuations: Sequence[Continuation], cross: CachedCrossAttention | None) -> None:
    """Beam search for all prompts together; leaves the best text of each in its continuation."""
    num_beams = continuations[0].options.num_beams
    # Twice the beams: while they are sorted anew, the old ones still stand beside the new.
    room = sum(2 * num_beams * (continuation.num_tokens_at_most + PAGE_SIZE) for continuation in continuations)
    cache = make_cache(model, room)
    prompts = {cache.open(continuation.num_tokens_at_most): continuation for continuation in continuations}
    logits = _prefill(model, cache, prompts, cross)
    searches = [BeamSearch(c.prompt_ids, c.options, c.eos_token_ids, model.config.vocab_size) for c in continuations]
    beams = {search: [sequence] * num_beams for search, sequence in zip(searches, prompts, strict=True)}
    rows = logits.repeat_interleave(num_beams, dim=0)
    while True:
        going_on: list[Piece] = []
        for number, (search, sequences) in enumerate(list(beams.items())):
            parents, tokens = search.advance(rows[number * num_beams : (number + 1) * num_beams])
            if search.is_done:
                for sequence in set(sequences):
                    cache.free(sequence)
                del beams[search]
                continue
            children = _reorder(cache, sequences, parents, search.num_tokens_at_most, cross)
            beams[search] = children
            going_on += [Piece(child, [token]) for child, token in zip(children, tokens, strict=True)]
        if not going_on:
            break
        rows = run(model, cache, going_on, cross)
    for continuation, search in zip(continuations, searches, strict=True):
        for token in search.best():
            continuation.accept(token, None)


def _reorder(
    cache: KVCache, sequences: list[int], parents: list[int], num_tokens: int, cross: CachedCrossAttention | None
) -> list[int]:
    """Sequences for the chosen beams: a parent's first child goes on with it, the others fork from it."""
    unused = set(sequences)
    children = []
    for parent in parents:
        sequence = sequences[parent]
        if sequence not in unused:
            child = cache.fork(sequence, num_tokens)
            if cross is not None:
                cross.row_of[child] = cross.row_of[sequence]
            children.append(child)
        else:
            unused.discard(sequence)
            children.append(sequence)
    for sequence in unused:
        cache.free(sequence)
    return children


def _result(continuation: Continuation) -> GenerationResult:
    assert continuation.finish_reason is not None
    return GenerationResult(
        text=continuation.text,
        token_ids=tuple(continuation.token_ids),
        finish_reason=continuation.finish_reason,
        num_prompt_tokens=len(continuation.prompt_ids),
        logprobs=tuple(continuation.logprobs) if continuation.options.logprobs else None,
    )
