"""One prompt and what is generated after it: everything that is a request's own.

Its options, its random numbers, its text, its end. What runs beside it is unknown here, so it cannot matter.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from bigbird.errors import InputError
from bigbird.generation.beam_search import BeamSearch
from bigbird.generation.options import GenerationOptions
from bigbird.generation.processors import Processor, processors_of
from bigbird.generation.sampling import TokenLogprob, logprobs_of
from bigbird.generation.text_stream import Decoder, TextStream

_NGRAMS = (3, 2)
"""Tokens in a row that are looked up earlier in the text for a draft, the longest first."""


class Tokenizer(Decoder, Protocol):
    """What is needed of a tokenizer; BigBirdTokenizer has it."""

    @property
    def cls_token_id(self) -> int: ...

    @property
    def sep_token_id(self) -> int: ...

    def __len__(self) -> int: ...

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...


@dataclass(frozen=True, kw_only=True)
class GenerationChunk:
    """One generated token of a request and the text that has become final with it.

    token_id, logprob: None where no token was generated (a cancellation), or no log-probability asked for.
    top_logprobs: (token, log-probability) of the likeliest tokens in its place, as many as asked for.
    prompt_logprobs: with the first chunk, those of the prompt's tokens but the first, where asked for.
    finish_reason: None before the last token; then "stop" (an end-of-sequence token or a stop string), "length"
    (max_new_tokens) or "cancelled".
    """

    request_id: int
    token_id: int | None
    text: str
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None
    finish_reason: str | None = None


class Request:
    """The state of one request.

    tokenizer: None for token ids without text. processors: beside those that the options ask for.
    stops: asked with all token ids (1, n) and None after every token; a true answer ends the text.
    encoder_row: the row of an encoder's states that a decoder with cross-attention reads.
    Raises InputError when prompt and options exceed the model.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer | None,
        prompt_ids: Sequence[int],
        options: GenerationOptions,
        *,
        processors: Sequence[Processor] = (),
        stops: Sequence[Callable[[Tensor, None], Any]] = (),
        encoder_row: int = 0,
        keep_scores: bool = False,
    ) -> None:
        self.prompt_ids = list(prompt_ids)
        self.options = options
        _check(model.config, tokenizer, self.prompt_ids, options)
        self.eos_token_ids = _eos_token_ids(model, tokenizer, options)
        self.processors = [*processors_of(options, self.eos_token_ids, len(self.prompt_ids)), *processors]
        self.encoder_row = encoder_row
        self.token_ids: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.prompt_logprobs: list[TokenLogprob] = []
        self.scores: list[Tensor] | None = [] if keep_scores else None
        """Where they are kept, the processed scores of every token, (1, V); of beams, log-probabilities (K, V)."""
        self.finish_reason: str | None = None
        self.text = ""
        self.search: BeamSearch | None = None
        if options.num_beams > 1:
            self.search = BeamSearch(self.prompt_ids, options, self.eos_token_ids, self.processors, self.scores)
        # The engine's: its number there, its sequences in the cache, and how many prompt tokens those hold.
        self.id = -1
        self.sequences: list[int] = []
        self.num_computed = 0
        self.is_cancelled = False
        self._stops = stops
        self._stream = None if tokenizer is None else TextStream(tokenizer, self.prompt_ids, options.stop)
        self._num_known = 0 if tokenizer is None else len(tokenizer)
        self._generator = torch.Generator()
        if options.temperature > 0:
            self._generator.seed() if options.seed is None else self._generator.manual_seed(options.seed)
        self._followers: dict[tuple[int, ...], int] = {}  # some tokens in a row: where the one after them stands
        self._num_looked_up = 0

    @property
    def num_tokens_at_most(self) -> int:
        """What each of its sequences may come to hold."""
        return len(self.prompt_ids) + self.options.max_new_tokens

    @property
    def num_left(self) -> int:
        """Prompt tokens still to compute."""
        return len(self.prompt_ids) - self.num_computed

    @property
    def all_ids(self) -> Tensor:
        """Prompt and text, (1, n)."""
        return torch.tensor([self.prompt_ids + self.token_ids])

    def process(self, scores: Tensor) -> Tensor:
        """The next token's scores, (V,), as the request's processors change them."""
        scores, ids = scores[None], self.all_ids.to(scores.device)
        for processor in self.processors:
            scores = processor(ids, scores)
        return scores[0]

    def uniform(self) -> float:
        """The request's next random number from [0, 1)."""
        return float(torch.rand((), generator=self._generator, dtype=torch.float64))

    def draft(self, limit: int) -> list[int]:
        """Up to `limit` tokens that may come next: those after the last place where the last tokens stood before."""
        limit = min(limit, self.options.prompt_lookup_num_tokens, self._num_new_left - 1)
        if limit < 1:
            return []
        ids = self.prompt_ids + self.token_ids
        for end in range(self._num_looked_up, len(ids)):
            for size in _NGRAMS:
                if end >= size:
                    self._followers[tuple(ids[end - size : end])] = end
        self._num_looked_up = len(ids)
        found = (self._followers.get(tuple(ids[-size:])) for size in _NGRAMS if len(ids) >= size)
        place = next((place for place in found if place is not None), len(ids))
        return ids[place : place + limit]

    def score_prompt(self, logits: Tensor) -> None:
        """Take the logits after the prompt tokens computed last, (R, V): those after the whole prompt score none."""
        first = self.num_computed - len(logits) + 1
        tokens = self.prompt_ids[first : first + len(logits)]
        chosen = torch.tensor(tokens, dtype=torch.int64, device=logits.device)
        self.prompt_logprobs += logprobs_of(logits[: len(tokens)], chosen, self.options.num_top_logprobs)

    def end(self, reason: str) -> GenerationChunk:
        """The last chunk where no token is the last: after a prompt that asks for none, and of what is cancelled."""
        self.finish_reason = reason
        scored = tuple(self.prompt_logprobs) if reason == "length" else None
        return GenerationChunk(request_id=self.id, token_id=None, text="", prompt_logprobs=scored, finish_reason=reason)

    def accept(self, token: int, logprob: TokenLogprob | None = None) -> GenerationChunk:
        """Take the next token; says what text is final and whether this was the last."""
        self.token_ids.append(token)
        if logprob is not None:
            self.logprobs.append(logprob)
        text = ""
        if token in self.eos_token_ids:
            self.finish_reason = "stop"
        elif self._stream is not None and token < self._num_known:  # models may have more rows than there are tokens
            text = self._stream.push(token)
            if self._stream.stopped:
                self.finish_reason = "stop"
        if self._stops and any(bool(torch.as_tensor(stop(self.all_ids, None)).all()) for stop in self._stops):
            self.finish_reason = "stop"
        if self.finish_reason is None and not self._num_new_left:
            self.finish_reason = "length"
        if self.finish_reason is not None and self._stream is not None:
            text += self._stream.finish()
        self.text += text
        with_prompt = self.options.prompt_logprobs and len(self.token_ids) == 1
        return GenerationChunk(
            request_id=self.id,
            token_id=token,
            text=text,
            logprob=None if logprob is None else logprob.logprob,
            top_logprobs=() if logprob is None else logprob.top,
            prompt_logprobs=tuple(self.prompt_logprobs) if with_prompt else None,
            finish_reason=self.finish_reason,
        )

    @property
    def _num_new_left(self) -> int:
        return self.options.max_new_tokens - len(self.token_ids)


def _eos_token_ids(model: Any, tokenizer: Tokenizer | None, options: GenerationOptions) -> tuple[int, ...]:
    """The tokens that end a text: the options' own, or else the model's and [SEP], with which a tokenized text ends."""
    if options.eos_token_ids is not None:
        return options.eos_token_ids
    ends: tuple[int, ...] = model.generation_config.eos_token_ids
    return ends if tokenizer is None else tuple(dict.fromkeys((*ends, tokenizer.sep_token_id)))


def _check(config: Any, tokenizer: Tokenizer | None, prompt_ids: Sequence[int], options: GenerationOptions) -> None:
    """Raise InputError, naming the limit and the value, unless the model can go on from the prompt."""
    if not config.is_decoder:
        raise InputError("generation needs a decoder; this model has is_decoder=False")
    if not prompt_ids:
        raise InputError("a prompt needs at least 1 token, got 0")
    for name, tokens in (
        ("prompt token ids", prompt_ids),
        ("eos_token_ids", options.eos_token_ids or ()),
        ("bad_words_ids", [token for word in options.bad_words_ids for token in word]),
        ("logit_bias", [token for token, _ in options.logit_bias]),
    ):
        for token in tokens:
            if not 0 <= token < config.vocab_size:
                raise InputError(f"{name} must be from 0 to {config.vocab_size - 1}, got {token}")
    total = len(prompt_ids) + options.max_new_tokens
    if total > config.max_position_embeddings:
        raise InputError(
            f"prompt and max_new_tokens must be at most {config.max_position_embeddings} tokens together, "
            f"got {len(prompt_ids)} + {options.max_new_tokens} = {total}"
        )
    if tokenizer is None and options.stop:
        raise InputError(f"stop strings need a tokenizer, got {options.stop!r} without one")
