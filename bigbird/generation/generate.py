"""Text from a causal language model: `generate` for a list of prompts, `stream` for one, token by token.

Both run the engine to its end: prompts are decoded together on one packed axis without padding, and each gives what it
gives alone. Knows nothing of scheduling, HTTP or Ray.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from bigbird.attention.cached import CachedCrossAttention
from bigbird.attention.kv_cache import PAGE_SIZE
from bigbird.attention.past import check_encoder_states
from bigbird.errors import InputError
from bigbird.generation.engine import Engine
from bigbird.generation.options import GenerationOptions
from bigbird.generation.request import GenerationChunk, Request, Tokenizer
from bigbird.generation.sampling import TokenLogprob

__all__ = ["GenerationChunk", "GenerationOptions", "GenerationResult", "encode_prompt", "generate", "stream"]

MAX_STREAMS = 32
PREFILL_TOKENS = 1024
"""Prompt tokens in one pass where no stream waits for its first token: enough to keep matrix products busy."""


@dataclass(frozen=True, kw_only=True)
class GenerationResult:
    """A prompt's continuation.

    token_ids: all that was generated, an end-of-sequence token and a stop string's tokens included, which `text` is
    without. logprobs, top_logprobs: one a token, None unless asked for; prompt_logprobs: one a
    token of the prompt after its first.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    num_prompt_tokens: int
    logprobs: tuple[float, ...] | None = None
    top_logprobs: tuple[tuple[tuple[int, float], ...], ...] | None = None
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None

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
    """Continue every prompt; num_return_sequences results each, in order, and each what the prompt gives alone.

    model: a BigBirdForCausalLM with is_decoder, prepared for inference or not. tokenizer: None when prompts are token
    ids and no text is wanted. prompts: texts (see `encode_prompt`) or token ids, taken as they are.
    encoder_hidden_states: (len(prompts), E, hidden_size) for a model with cross-attention, and
    encoder_attention_mask: (len(prompts), E), 1 = attend.

    Raises InputError before anything is computed, naming the prompt, the limit and the value.
    """
    if isinstance(prompts, str):
        raise InputError("prompts must be a list of prompts, got one string")
    requests = []
    for number, prompt in enumerate(prompts):
        try:
            requests += requests_of(
                model, tokenizer, _ids(tokenizer, prompt), options or GenerationOptions(), encoder_row=number
            )
        except InputError as error:
            raise InputError(f"prompt {number}: {error}") from None
    cross = cross_attention(model.config, len(prompts), encoder_hidden_states, encoder_attention_mask)
    complete(model, requests, cross=cross)
    return [result for request in requests for result in results_of(model, tokenizer, request)]


def stream(
    model: Any, tokenizer: Tokenizer | None, prompt: str | Sequence[int], options: GenerationOptions | None = None
) -> Iterator[GenerationChunk]:
    """Continue one prompt, a chunk a token. The chunks' texts together are the text that `generate` returns.

    Raises InputError at once, not at the first chunk, and for beam search, which has nothing to show before its end.
    """
    options = options or GenerationOptions()
    for name in ("num_beams", "num_return_sequences"):
        if getattr(options, name) > 1:
            raise InputError(f"{name} must be 1 to stream, got {getattr(options, name)}")
    try:
        request = Request(model, tokenizer, _ids(tokenizer, prompt), options)
    except InputError as error:
        raise InputError(f"prompt 0: {error}") from None
    return engine_for(model, [request]).run()


def requests_of(
    model: Any, tokenizer: Tokenizer | None, prompt_ids: Sequence[int], options: GenerationOptions, **more: Any
) -> list[Request]:
    """A prompt's requests: one, or one for each text to draw. more: as `Request` takes it."""
    if options.num_beams > 1 or options.num_return_sequences == 1:
        return [Request(model, tokenizer, prompt_ids, options, **more)]
    drawn = []
    for number in range(options.num_return_sequences):
        seed = None if options.seed is None else options.seed + number
        one = replace(options, seed=seed, num_return_sequences=1)
        drawn.append(Request(model, tokenizer, prompt_ids, one, **more))
    return drawn


def complete(
    model: Any,
    requests: Sequence[Request],
    *,
    max_cache_tokens: int | None = None,
    cross: CachedCrossAttention | None = None,
) -> None:
    """Run requests to their ends, MAX_STREAMS sequences at a time."""
    for _ in engine_for(model, requests, max_cache_tokens=max_cache_tokens, cross=cross).run():
        pass


def engine_for(
    model: Any,
    requests: Sequence[Request],
    *,
    max_cache_tokens: int | None = None,
    cross: CachedCrossAttention | None = None,
) -> Engine:
    """An engine with nothing but these requests. max_cache_tokens: None for as many as run at a time can need."""
    needed = sorted((request.num_tokens_at_most + PAGE_SIZE) * request.options.num_beams for request in requests)
    engine = Engine(
        model,
        max_cache_tokens=max_cache_tokens or max(sum(needed[-MAX_STREAMS:]), 1),
        max_streams=MAX_STREAMS,
        prefill_tokens=PREFILL_TOKENS,
        cross=cross,
    )
    for request in requests:
        engine.add(request)
    return engine


def results_of(model: Any, tokenizer: Tokenizer | None, request: Request) -> list[GenerationResult]:
    """What a request that has ended gives: one result, of a beam search num_return_sequences, the best first."""
    texts = [request]
    if request.search is not None:
        texts = []
        for _, token_ids in request.search.complete[: request.options.num_return_sequences]:
            texts.append(Request(model, tokenizer, request.prompt_ids, request.options))
            for token in token_ids:
                texts[-1].accept(token)
    return [
        GenerationResult(
            text=text.text,
            token_ids=tuple(text.token_ids),
            finish_reason=text.finish_reason or "length",
            num_prompt_tokens=len(text.prompt_ids),
            logprobs=tuple(item.logprob for item in text.logprobs) if text.options.logprobs else None,
            top_logprobs=tuple(item.top for item in text.logprobs) if text.options.num_top_logprobs else None,
            prompt_logprobs=tuple(text.prompt_logprobs) if text.options.prompt_logprobs else None,
        )
        for text in texts
    ]


def cross_attention(
    config: Any, num_prompts: int, states: Tensor | None, mask: Tensor | None
) -> CachedCrossAttention | None:
    """Attention to an encoder's states, checked; None where there are none, which a decoder may run without."""
    check_encoder_states(config, num_prompts, states, mask)
    return None if states is None else CachedCrossAttention(states, mask)


def _ids(tokenizer: Tokenizer | None, prompt: str | Sequence[int]) -> Sequence[int]:
    if not isinstance(prompt, str):
        return prompt
    if tokenizer is None:
        raise InputError("a text needs a tokenizer, got None")
    return encode_prompt(tokenizer, prompt)
