"""One prompt and what is generated after it: everything that is a request's own.

Its options, its random numbers, its text, its end. What runs beside it is unknown here, so it cannot matter.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from bigbird.errors import InputError
from bigbird.generation.options import GenerationOptions
from bigbird.generation.text_stream import Decoder, TextStream


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
    """One generated token and the text that has become final with it.

    token_id, logprob: None where no token was generated (a cancellation), or no log-probability asked for.
    finish_reason: None before the last token; then "stop" (an end-of-sequence token or a stop string), "length"
    (max_new_tokens) or "cancelled".
    """

    token_id: int | None
    text: str
    logprob: float | None = None
    finish_reason: str | None = None


class Continuation:
    """The state of one request.

    tokenizer: None for token ids without text. Raises InputError when prompt and options exceed the model.
    """

    def __init__(
        self, model: Any, tokenizer: Tokenizer | None, prompt_ids: Sequence[int], options: GenerationOptions
    ) -> None:
        config = model.config
        self.prompt_ids = list(prompt_ids)
        self.options = options
        check_prompt(config, tokenizer, self.prompt_ids, options)
        self.eos_token_ids = eos_token_ids(model, tokenizer, options)
        self.token_ids: list[int] = []
        self.logprobs: list[float] = []
        self.finish_reason: str | None = None
        self.text = ""
        self._stream = None if tokenizer is None else TextStream(tokenizer, self.prompt_ids, options.stop)
        self._num_known = 0 if tokenizer is None else len(tokenizer)
        self._generator = torch.Generator()
        if options.temperature > 0:
            self._generator.seed() if options.seed is None else self._generator.manual_seed(options.seed)
        self.seen: Tensor | None = None
        if options.repetition_penalty != 1.0:
            self.seen = seen_tokens(self.prompt_ids, config.vocab_size)

    @property
    def num_tokens_at_most(self) -> int:
        return len(self.prompt_ids) + self.options.max_new_tokens

    @property
    def forbids_eos(self) -> bool:
        return len(self.token_ids) < self.options.min_new_tokens

    def uniform(self) -> float:
        """The request's next random number from [0, 1)."""
        return float(torch.rand((), generator=self._generator, dtype=torch.float64))

    def accept(self, token: int, logprob: float | None) -> GenerationChunk:
        """Take the next token; says what text is final and whether this was the last."""
        self.token_ids.append(token)
        if logprob is not None:
            self.logprobs.append(logprob)
        if self.seen is not None:
            self.seen[token] = True
        text = ""
        if token in self.eos_token_ids:
            self.finish_reason = "stop"
        elif self._stream is not None and token < self._num_known:  # models may have more rows than there are tokens
            text = self._stream.push(token)
            if self._stream.stopped:
                self.finish_reason = "stop"
        if self.finish_reason is None and len(self.token_ids) == self.options.max_new_tokens:
            self.finish_reason = "length"
        if self.finish_reason is not None and self._stream is not None:
            text += self._stream.finish()
        self.text += text
        return GenerationChunk(token_id=token, text=text, logprob=logprob, finish_reason=self.finish_reason)


def eos_token_ids(model: Any, tokenizer: Tokenizer | None, options: GenerationOptions) -> tuple[int, ...]:
    """The tokens that end a text: the options' own, or else the model's and [SEP], with which a tokenized text ends."""
    if options.eos_token_ids is not None:
        return options.eos_token_ids
    ends: tuple[int, ...] = model.generation_config.eos_token_ids
    return ends if tokenizer is None else tuple(dict.fromkeys((*ends, tokenizer.sep_token_id)))


def seen_tokens(token_ids: Sequence[int], vocab_size: int) -> Tensor:
    """(V,), bool: True for the tokens given."""
    seen = torch.zeros(vocab_size, dtype=torch.bool)
    seen[torch.tensor(token_ids)] = True
    return seen


def check_prompt(
    config: Any, tokenizer: Tokenizer | None, prompt_ids: Sequence[int], options: GenerationOptions
) -> None:
    """Raise InputError, naming the limit and the value, unless the model can go on from the prompt."""
    if not config.is_decoder:
        raise InputError("generation needs a decoder; this model has is_decoder=False")
    if not prompt_ids:
        raise InputError("a prompt needs at least 1 token, got 0")
    for token in prompt_ids:
        if not 0 <= token < config.vocab_size:
            raise InputError(f"prompt token ids must be from 0 to {config.vocab_size - 1}, got {token}")
    if any(token >= config.vocab_size for token in options.eos_token_ids or ()):
        raise InputError(f"eos_token_ids must be below {config.vocab_size}, got {options.eos_token_ids}")
    total = len(prompt_ids) + options.max_new_tokens
    if total > config.max_position_embeddings:
        raise InputError(
            f"prompt and max_new_tokens must be at most {config.max_position_embeddings} tokens together, "
            f"got {len(prompt_ids)} + {options.max_new_tokens} = {total}"
        )
    if tokenizer is None and options.stop:
        raise InputError(f"stop strings need a tokenizer, got {options.stop!r} without one")
