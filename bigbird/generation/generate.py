"""Text from a causal language model: `generate` for a list of prompts, `stream` for one, token by token.

Both run the engine to its end: prompts are decoded together on one packed axis without padding, and each gives what it
gives alone. Knows nothing of scheduling, HTTP or Ray.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from bigbird.attention.cached import CachedCrossAttention
from bigbird.attention.past import check_encoder_states
from bigbird.errors import InputError
from bigbird.generation.engine import Engine
from bigbird.generation.options import GenerationOptions
from bigbird.generation.request import GenerationChunk, Request
from bigbird.generation.sampler import TokenLogprob
from bigbird.generation.text_stream import Tokenizer

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
    options = options or GenerationOptions()
    requests = []
    for number, prompt in enumerate(prompts):
        requests += requests_of(model, tokenizer, prompt, options, number)
    check_encoder_states(model.config, len(prompts), encoder_hidden_states, encoder_attention_mask)
    for _ in run(model, requests, encoder_hidden_states, encoder_attention_mask):
        pass
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
    return run(model, requests_of(model, tokenizer, prompt, options))


def requests_of(
    model: Any,
    tokenizer: Tokenizer | None,
    prompt: str | Sequence[int],
    options: GenerationOptions,
    number: int = 0,
    item: str = "prompt",
    **more: Any,
) -> list[Request]:
    """A prompt's requests: one, or one for each text to draw.

    number: the prompt's, which is also that of the encoder's states it reads. item: what errors call it. more: as
    `Request` takes it.
    """
    try:
        if isinstance(prompt, str):
            if tokenizer is None:
                raise InputError("a text needs a tokenizer, got None")
            prompt = encode_prompt(tokenizer, prompt)
        of_each = [options]
        if options.num_beams == 1 < options.num_return_sequences:
            seeds = [
                None if options.seed is None else options.seed + place for place in range(options.num_return_sequences)
            ]
            of_each = [replace(options, seed=seed, num_return_sequences=1) for seed in seeds]
        return [Request(model, tokenizer, prompt, one, encoder_row=number, **more) for one in of_each]
    except InputError as error:
        raise InputError(f"{item} {number}: {error}") from None


def run(
    model: Any,
    requests: Sequence[Request],
    encoder_hidden_states: Tensor | None = None,
    encoder_attention_mask: Tensor | None = None,
    *,
    max_cache_tokens: int | None = None,
) -> Iterator[GenerationChunk]:
    """Run requests to their ends in an engine of their own, MAX_STREAMS sequences at a time."""
    cross = None
    if encoder_hidden_states is not None:
        cross = CachedCrossAttention(encoder_hidden_states, encoder_attention_mask)
    engine = Engine(
        model,
        max_cache_tokens=max_cache_tokens,
        max_streams=max([MAX_STREAMS, *(request.options.num_beams for request in requests)]),
        prefill_tokens=PREFILL_TOKENS,
        cross=cross,
    )
    for request in requests:
        engine.add(request)
    return engine.run()


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
