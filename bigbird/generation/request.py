"""One prompt and what is generated after it: everything that is a request's own.

Its options, its random numbers, its text, its end. What runs beside it is unknown here, so it cannot matter.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bigbird.errors import InputError
from bigbird.generation.beam_search import BeamSearch
from bigbird.generation.options import GenerationOptions
from bigbird.generation.sampler import Processor, TokenLogprob, draw, logprobs_of, processors_of, warp
from bigbird.generation.text_stream import TextStream, Tokenizer

_NGRAMS = (3, 2)
"""Tokens in a row that are looked up earlier in the text for a draft, the longest first."""


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
    token_id: int | None = None
    text: str = ""
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None
    finish_reason: str | None = None


@dataclass(frozen=True)
class Piece:
    """New tokens of one sequence of the cache; the logits after the last `num_logits` of them are wanted."""

    sequence: int
    token_ids: list[int]
    num_logits: int = 1


class Request:
    """The state of one request.

    tokenizer: None for token ids without text. processors: beside those that the options ask for.
    stops: asked with all token ids (1, n) and None after every token; a true answer ends the text.
    encoder_row: the row of an encoder's states that a decoder with cross-attention reads. keep_scores: of every token.
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
        if options.eos_token_ids is not None:
            self.eos_token_ids = options.eos_token_ids
        else:  # the model's, and [SEP], with which a tokenized text ends
            ends = () if tokenizer is None else (tokenizer.sep_token_id,)
            self.eos_token_ids = tuple(dict.fromkeys((*model.generation_config.eos_token_ids, *ends)))
        self.processors = [*processors_of(options, self.eos_token_ids, len(self.prompt_ids)), *processors]
        self.encoder_row = encoder_row
        self.token_ids: list[int] = []
        self.text = ""
        self.finish_reason: str | None = None
        self.logprobs: list[TokenLogprob] = []
        self.prompt_logprobs: list[TokenLogprob] = []
        self.scores: list[Tensor] | None = [] if keep_scores else None
        """The processed scores of every token, (1, V); of beams, log-probabilities (K, V)."""
        self.search: BeamSearch | None = None
        if options.num_beams > 1:
            self.search = BeamSearch(self.prompt_ids, options, self.eos_token_ids, self.processors)
        # The engine's: its number there, its sequences in the cache, how many of the prompt's tokens those hold, and
        # which tokens the step under way tries out.
        self.id = -1
        self.sequences: list[int] = []
        self.num_computed = 0
        self.drafted: list[int] = []
        self.is_cancelled = False
        self._stops = stops
        self._stream = None if tokenizer is None else TextStream(tokenizer, self.prompt_ids, options.stop)
        generator = torch.Generator()
        generator.seed() if options.seed is None else generator.manual_seed(options.seed)
        self._chances = torch.rand(options.max_new_tokens, generator=generator, dtype=torch.float64)
        self._followers: dict[tuple[int, ...], int] = {}  # an n-gram -> the place behind its last occurrence
        self._num_indexed = 0

    @property
    def num_tokens_at_most(self) -> int:
        """What each of its sequences may come to hold."""
        return len(self.prompt_ids) + self.options.max_new_tokens

    @property
    def num_left(self) -> int:
        """Prompt tokens still to compute."""
        return len(self.prompt_ids) - self.num_computed

    def next_pieces(self, num_prompt_tokens: int, max_draft: int) -> list[Piece]:
        """What the model computes next: so many tokens of the prompt, or with 0 the last token and a draft."""
        if num_prompt_tokens:
            ids = self.prompt_ids[self.num_computed : self.num_computed + num_prompt_tokens]
            self.num_computed += num_prompt_tokens
            return [Piece(self.sequences[0], ids, len(ids) if self.options.prompt_logprobs else int(not self.num_left))]
        if self.search is not None:
            beams = zip(self.sequences, self.search.beams, strict=True)
            return [Piece(sequence, beam[-1:]) for sequence, beam in beams]
        self.drafted = self._draft(max_draft)
        ids = [self.token_ids[-1], *self.drafted]
        return [Piece(self.sequences[0], ids, len(ids))]

    def take(self, logits: Tensor) -> list[GenerationChunk]:
        """Choose a token by the logits that its pieces asked for, (R, V), and one more after each token of the draft
        that equals the chosen one."""
        if self.search is not None:
            return self._take_beams(self.search, logits)
        if self.options.prompt_logprobs and not self.token_ids:
            first = self.num_computed - len(logits) + 1
            tokens = self.prompt_ids[first : first + len(logits)]  # no more follows the last
            self.prompt_logprobs += logprobs_of(logits[: len(tokens)], tokens, self.options.num_top_logprobs)
            if self.num_left:
                return []
            logits = logits[-1:]
        if not self.options.max_new_tokens:
            return [self.end("length")]
        chunks: list[GenerationChunk] = []
        for row, drafted in zip(logits, [*self.drafted, None], strict=True):
            chunks.append(self._choose(row))
            if self.finish_reason is not None or self.token_ids[-1] != drafted:
                break
        return chunks

    def _choose(self, logits: Tensor) -> GenerationChunk:
        """Choose the next token. logits: (V,)."""
        scores, options = logits, self.options
        if self.processors:
            ids, scores = torch.tensor([self.prompt_ids + self.token_ids]), logits[None]
            for processor in self.processors:
                scores = processor(ids, scores)
            scores = scores[0]
        if options.temperature:
            scores = warp(scores, options)
            token = draw(scores, float(self._chances[len(self.token_ids)]))
        else:
            token = int(scores.numpy().argmax())  # a seventh of the time of torch's argmax
        if self.scores is not None:
            self.scores.append(scores.clone()[None])  # else a row keeps all rows of its step
        scored = logprobs_of(logits[None], [token], options.num_top_logprobs) if options.logprobs else [None]
        return self.accept(token, scored[0])

    def _take_beams(self, search: BeamSearch, logits: Tensor) -> list[GenerationChunk]:
        """Let the search go on; at its end, the best text in one chunk."""
        if len(logits) == 1:
            self.sequences = self.sequences * self.options.num_beams
        search.advance(logits)
        if self.scores is not None:
            self.scores.append(search.scores)
        if not search.is_done:
            return []
        last = [self.accept(token) for token in search.complete[0][1]][-1]
        return [replace(last, text=self.text)]

    def _draft(self, limit: int) -> list[int]:
        """Up to `limit` tokens that may come next: those after the last place where the last tokens stood before."""
        limit = min(limit, self.options.prompt_lookup_num_tokens, self.options.max_new_tokens - len(self.token_ids) - 1)
        if limit < 1:
            return []
        ids = self.prompt_ids + self.token_ids
        for end in range(self._num_indexed, len(ids)):
            for size in _NGRAMS:
                if end >= size:
                    self._followers[tuple(ids[end - size : end])] = end
        self._num_indexed = len(ids)
        found = (self._followers.get(tuple(ids[-size:])) for size in _NGRAMS if len(ids) >= size)
        place = next((place for place in found if place is not None), len(ids))
        return ids[place : place + limit]

    def end(self, reason: str) -> GenerationChunk:
        """A last chunk without a token: where max_new_tokens is 0, and where the request is cancelled."""
        self.finish_reason = reason
        scored = tuple(self.prompt_logprobs) if reason == "length" else None
        return GenerationChunk(request_id=self.id, prompt_logprobs=scored, finish_reason=reason)

    def accept(self, token: int, logprob: TokenLogprob | None = None) -> GenerationChunk:
        """Take the next token; says what text is final and whether this was the last."""
        self.token_ids.append(token)
        if logprob is not None:
            self.logprobs.append(logprob)
        is_end, text = token in self.eos_token_ids, ""
        if self._stream is not None and not is_end:
            text = self._stream.push(token)
            is_end = self._stream.stopped
        if self._stops:
            ids = torch.tensor([self.prompt_ids + self.token_ids])
            is_end |= any(bool(torch.as_tensor(stop(ids, None)).all()) for stop in self._stops)
        if is_end or len(self.token_ids) == self.options.max_new_tokens:
            self.finish_reason = "stop" if is_end else "length"
            text += "" if self._stream is None else self._stream.finish()
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
