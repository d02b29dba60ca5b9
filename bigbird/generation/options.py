"""What a request for generated text may ask for, checked once. Knows no model, tokenizer or tensor."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from bigbird.errors import InputError

_INTEGERS = {  # name: the least value and the largest
    "max_new_tokens": (0, None),
    "min_new_tokens": (0, None),
    "top_k": (0, None),
    "no_repeat_ngram_size": (0, None),
    "num_beams": (1, 64),
    "num_return_sequences": (1, 64),
    "prompt_lookup_num_tokens": (0, 64),
    "num_top_logprobs": (0, 20),
}
_NUMBERS = {  # name: the least value, the largest, and whether the least itself is refused
    "temperature": (0.0, 100.0, False),
    "top_p": (0.0, 1.0, True),
    "min_p": (0.0, 1.0, False),
    "repetition_penalty": (0.0, 100.0, True),
    "length_penalty": (-100.0, 100.0, False),
}
_OF_SAMPLING = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
_OF_BEAMS = {"length_penalty": 1.0, "early_stopping": False}
_NOT_OF_BEAMS = {
    "temperature": 0.0,
    "stop": (),
    "logprobs": False,
    "prompt_logprobs": False,
    "prompt_lookup_num_tokens": 0,
}
_LARGEST_BIAS = 100.0


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """How to continue a prompt. Hashable; every value is checked when it is made.

    max_new_tokens: tokens generated at most, the end-of-sequence token included. 0 only with prompt_logprobs.
    min_new_tokens: until so many are generated, no end-of-sequence token is chosen (stop strings still end).
    temperature: 0 takes the most likely token (greedy); above, logits are divided by it and a token is drawn.
    top_k: draw among the k most likely tokens; 0 for no limit.
    top_p: draw among the fewest tokens whose probabilities sum to at least p.
    min_p: draw among tokens at least min_p times as likely as the most likely one.
        Temperature, top_k, top_p and min_p apply in this order, as in transformers.
    repetition_penalty: above 1, tokens of the prompt and the text so far become less likely (Keskar et al., 2019).
    no_repeat_ngram_size: no n tokens in a row stand twice in prompt and text; 0 for no such rule.
    bad_words_ids: tokens, or runs of tokens, that are not generated.
    logit_bias: (token, number from -100 to 100) pairs, added to the tokens' logits before anything else.
    seed: of the request's own generator: same seed, same text, whatever runs beside it. None draws one.
    stop: strings that end the text where they begin; they are not part of it.
    eos_token_ids: tokens that end the text; None for the model's own, () for none.
    logprobs: report each token's log-probability under the model itself, before bias, penalty and temperature.
    prompt_logprobs: report those of the prompt's tokens too, of all but the first.
    num_top_logprobs: beside each reported token, so many of the likeliest tokens in its place.
    num_beams: above 1, beam search; the most likely of so many texts, for temperature 0 without stop and logprobs.
    length_penalty: a beam's score is its log-probability divided by its length to this power.
    early_stopping: end a beam search when num_beams texts are complete, though others might still score higher.
    num_return_sequences: texts a prompt: drawn, with the seeds that follow `seed`, or the best of the beams.
    prompt_lookup_num_tokens: above 0, up to so many tokens that followed the last few tokens earlier in prompt or
        text are tried out in one step. The same text in fewer steps, where texts repeat themselves.

    Lists are kept as tuples. Raises InputError naming the option, its limit and its value; so it does for one that
    would change nothing.
    """

    max_new_tokens: int = 64
    min_new_tokens: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    stop: tuple[str, ...] = ()
    eos_token_ids: tuple[int, ...] | None = None
    logprobs: bool = False
    prompt_logprobs: bool = False
    num_top_logprobs: int = 0
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool = False
    num_return_sequences: int = 1
    prompt_lookup_num_tokens: int = 0

    def __post_init__(self) -> None:
        for name, (least, most) in _INTEGERS.items():
            self._check_integer(name, least, most)
        self._check_integer("min_new_tokens", 0, self.max_new_tokens, "max_new_tokens")
        if self.seed is not None:
            self._check_integer("seed", 0, 2**63 - 1)
        for name, (low, high, above) in _NUMBERS.items():
            self._check_number(name, low, high, above=above)
        for name in ("logprobs", "prompt_logprobs", "early_stopping"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} must be True or False, got {getattr(self, name)!r}")
        self._check_items("stop", str)
        self._check_items("eos_token_ids", int)
        words: Any = self.bad_words_ids
        object.__setattr__(self, "bad_words_ids", tuple(tuple(word) if type(word) is list else word for word in words))
        for word in self.bad_words_ids:
            if not isinstance(word, tuple) or not word or not all(type(token) is int and token >= 0 for token in word):
                raise InputError(f"bad_words_ids must be lists of int of at least 0, none empty, got {word!r}")
        self._check_bias()
        self._check_together()

    def _check_bias(self) -> None:
        pairs: Any = self.logit_bias
        object.__setattr__(self, "logit_bias", tuple(tuple(pair) if type(pair) is list else pair for pair in pairs))
        for pair in self.logit_bias:
            if not isinstance(pair, tuple) or len(pair) != 2 or type(pair[0]) is not int or pair[0] < 0:
                raise InputError(f"logit_bias must be (token, number) pairs, got {pair!r}")
            if type(pair[1]) not in (int, float) or not abs(pair[1]) <= _LARGEST_BIAS:
                raise InputError(
                    f"logit_bias must be numbers from {-_LARGEST_BIAS:g} to {_LARGEST_BIAS:g}, "
                    f"got {pair[1]!r} for token {pair[0]}"
                )

    def _check_together(self) -> None:
        if self.max_new_tokens == 0 and not self.prompt_logprobs:
            raise InputError("max_new_tokens must be an integer of 1 up without prompt_logprobs, got 0")
        if self.num_top_logprobs and not (self.logprobs or self.prompt_logprobs):
            raise InputError(f"num_top_logprobs must be 0 without logprobs, got {self.num_top_logprobs}")
        if self.temperature == 0:
            self._refuse(_OF_SAMPLING, "at temperature 0, which draws nothing")
        if self.num_beams == 1:
            self._refuse(_OF_BEAMS, "without beam search (num_beams 1)")
        else:
            self._refuse(_NOT_OF_BEAMS, f"with beam search (num_beams {self.num_beams})")
        most = self.num_beams if self.num_beams > 1 or self.temperature == 0 else self.num_return_sequences
        if self.num_return_sequences > most:
            raise InputError(
                f"num_return_sequences must be at most num_beams {most} at temperature 0, "
                f"got {self.num_return_sequences}"
            )

    def _refuse(self, neutral: dict[str, Any], where: str) -> None:
        for name, value in neutral.items():
            if getattr(self, name) != value:
                raise InputError(f"{name} must be {value!r} {where}, got {getattr(self, name)!r}")

    def _check_items(self, name: str, kind: type) -> None:
        """Items of one kind, none empty or negative; a list becomes a tuple, so that options are hashable."""
        values = getattr(self, name)
        if values is None and name == "eos_token_ids":
            return
        if not isinstance(values, list | tuple) or not all(type(value) is kind for value in values):
            raise InputError(f"{name} must be a tuple of {kind.__name__}, got {values!r}")
        if any(value == "" or (kind is int and value < 0) for value in values):
            raise InputError(
                f"{name} must be {'at least 0' if kind is int else 'strings with characters'}, got {values!r}"
            )
        object.__setattr__(self, name, tuple(values))

    def _check_integer(self, name: str, low: int, high: int | None, high_name: str = "") -> None:
        value = getattr(self, name)
        if type(value) is not int or value < low or (high is not None and value > high):
            limit = f"from {low} to {high_name}{' ' if high_name else ''}{high}" if high is not None else f"of {low} up"
            raise InputError(f"{name} must be an integer {limit}, got {value!r}")

    def _check_number(self, name: str, low: float, high: float, *, above: bool) -> None:
        value = getattr(self, name)
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not number or not low <= value <= high or (above and value == low):
            raise InputError(f"{name} must be a number {'above' if above else 'from'} {low} to {high}, got {value!r}")


def refuse_other_devices(device: torch.device | str) -> None:
    """Raises InputError for any device but the CPU, on which alone a step of decoding is fast."""
    if torch.device(device).type != "cpu":
        raise InputError(f"text is generated on the CPU only, and this model is for {device}")
