"""What a request for generated text may ask for, checked once. Knows no model, tokenizer or tensor."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bigbird.errors import InputError

_LIMITS: dict[str, tuple[str, float, float | None]] = {  # "a number above" refuses the least value itself
    **dict.fromkeys(("max_new_tokens", "min_new_tokens", "top_k", "no_repeat_ngram_size"), ("an integer", 0, None)),
    **dict.fromkeys(("num_beams", "num_return_sequences"), ("an integer", 1, 64)),
    "prompt_lookup_num_tokens": ("an integer", 0, 64),
    "num_top_logprobs": ("an integer", 0, 20),
    "seed": ("an integer", 0, 2**63 - 1),
    "temperature": ("a number", 0.0, 100.0),
    "top_p": ("a number above", 0.0, 1.0),
    "min_p": ("a number", 0.0, 1.0),
    "repetition_penalty": ("a number above", 0.0, 100.0),
    "length_penalty": ("a number", -100.0, 100.0),
}
_OF_SAMPLING = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
OF_BEAMS = {"length_penalty": 1.0, "early_stopping": False}
_NOT_OF_BEAMS = {
    "temperature": 0.0,
    "stop": (),
    "logprobs": False,
    "prompt_logprobs": False,
    "prompt_lookup_num_tokens": 0,
}


def _is_token(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_word(value: Any) -> bool:
    return isinstance(value, tuple) and value != () and all(map(_is_token, value))


def _is_bias(value: Any) -> bool:
    is_pair = isinstance(value, tuple) and len(value) == 2 and type(value[1]) in (int, float)
    return is_pair and _is_token(value[0]) and abs(value[1]) <= 100


_ITEMS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "stop": ("strings with characters", lambda value: isinstance(value, str) and value != ""),
    "eos_token_ids": ("token ids, integers of 0 up", _is_token),
    "bad_words_ids": ("lists of token ids, none empty", _is_word),
    "logit_bias": ("(token, number from -100 to 100) pairs", _is_bias),
}


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
        for name in _LIMITS:
            self._check_limits(name)
        for name in ("logprobs", "prompt_logprobs", "early_stopping"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} must be True or False, got {getattr(self, name)!r}")
        for name in _ITEMS:
            self._check_items(name)
        self._check_together()

    def _check_limits(self, name: str) -> None:
        value, (kind, least, most) = getattr(self, name), _LIMITS[name]
        if name == "seed" and value is None:
            return
        is_kind = isinstance(value, int if kind == "an integer" else int | float) and not isinstance(value, bool)
        is_above = kind == "a number above"
        # Written so that NaN is within no limits.
        if not (is_kind and value >= least and (most is None or value <= most)) or (is_above and value == least):
            limits = f"of {least} up" if most is None else f"{'' if is_above else 'from '}{least} to {most}"
            raise InputError(f"{name} must be {kind} {limits}, got {value!r}")

    def _check_items(self, name: str) -> None:
        values, (kind, is_one) = getattr(self, name), _ITEMS[name]
        if name == "eos_token_ids" and values is None:
            return
        if not isinstance(values, list | tuple):
            raise InputError(f"{name} must be a tuple of {kind}, got {values!r}")
        items = tuple(tuple(item) if isinstance(item, list) else item for item in values)
        for item in items:
            if not is_one(item):
                raise InputError(f"{name} must be {kind}, got {item!r}")
        object.__setattr__(self, name, items)

    def _check_together(self) -> None:
        if self.min_new_tokens > self.max_new_tokens:
            raise InputError(
                f"min_new_tokens must be at most max_new_tokens {self.max_new_tokens}, got {self.min_new_tokens}"
            )
        if self.max_new_tokens == 0 and not self.prompt_logprobs:
            raise InputError("max_new_tokens must be an integer of 1 up without prompt_logprobs, got 0")
        if self.num_top_logprobs and not (self.logprobs or self.prompt_logprobs):
            raise InputError(f"num_top_logprobs must be 0 without logprobs, got {self.num_top_logprobs}")
        searches = self.num_beams > 1
        for holds, neutral, where in (
            (self.temperature == 0, _OF_SAMPLING, "at temperature 0, which draws nothing"),
            (not searches, OF_BEAMS, "without beam search (num_beams 1)"),
            (searches, _NOT_OF_BEAMS, f"with beam search (num_beams {self.num_beams})"),
        ):
            for name, value in neutral.items() if holds else ():
                if getattr(self, name) != value:
                    raise InputError(f"{name} must be {value!r} {where}, got {getattr(self, name)!r}")
        if self.num_return_sequences > self.num_beams and self.temperature == 0:
            raise InputError(
                f"num_return_sequences must be at most num_beams {self.num_beams} at temperature 0, "
                f"got {self.num_return_sequences}"
            )


def refuse_other_devices(device: object) -> None:
    """Raises InputError for any device but the CPU, on which alone a step of decoding is fast. device: or its name."""
    if str(device).partition(":")[0] != "cpu":
        raise InputError(f"text is generated on the CPU only, and this model is for {device}")
