"""What a request for generated text may ask for, checked once. Knows no model, tokenizer or tensor."""

import math
from dataclasses import dataclass

from bigbird.errors import InputError


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """How to continue a prompt. Hashable; every value is checked when it is made.

    max_new_tokens: tokens generated at most, the end-of-sequence token included.
    min_new_tokens: until so many are generated, no end-of-sequence token is chosen (stop strings still end).
    temperature: 0 takes the most likely token (greedy); above, logits are divided by it and a token is drawn.
    top_k: draw among the k most likely tokens; 0 for no limit.
    top_p: draw among the fewest tokens whose probabilities sum to at least p.
    min_p: draw among tokens at least min_p times as likely as the most likely one.
        Temperature, top_k, top_p and min_p apply in this order, as in transformers.
    repetition_penalty: above 1, tokens of the prompt and the text so far become less likely (Keskar et al., 2019).
    seed: of the request's own generator: same seed, same text, whatever runs beside it. None draws one.
    stop: strings that end the text where they begin; they are not part of it.
    eos_token_ids: tokens that end the text; None for the model's own, () for none.
    logprobs: report each token's log-probability under the model itself, before penalty and temperature.
    num_beams: above 1, beam search; the most likely of so many texts, for temperature 0 without stop and logprobs.
    length_penalty: a beam's score is its log-probability divided by its length to this power.
    early_stopping: end a beam search when num_beams texts are complete, though others might still score higher.

    Raises InputError naming the option, its limit and its value.
    """

    max_new_tokens: int = 64
    min_new_tokens: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    eos_token_ids: tuple[int, ...] | None = None
    logprobs: bool = False
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool = False

    def __post_init__(self) -> None:
        self._check_integer("max_new_tokens", 1)
        self._check_integer("min_new_tokens", 0, self.max_new_tokens, "max_new_tokens")
        self._check_number("temperature", 0.0, 100.0)
        self._check_integer("top_k", 0)
        self._check_number("top_p", 0.0, 1.0, above=True)
        self._check_number("min_p", 0.0, 1.0)
        self._check_number("repetition_penalty", 0.0, 100.0, above=True)
        if self.seed is not None:
            self._check_integer("seed", 0, 2**63 - 1)
        for name, kind in (("stop", str), ("eos_token_ids", int)):
            values = getattr(self, name)
            if values is None and name == "eos_token_ids":
                continue
            if not isinstance(values, tuple) or not all(type(value) is kind for value in values):
                raise InputError(f"{name} must be a tuple of {kind.__name__}, got {values!r}")
        if "" in self.stop:
            raise InputError(f"stop strings must not be empty, got {self.stop!r}")
        if any(token < 0 for token in self.eos_token_ids or ()):
            raise InputError(f"eos_token_ids must be at least 0, got {self.eos_token_ids!r}")
        for name in ("logprobs", "early_stopping"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} must be True or False, got {getattr(self, name)!r}")
        self._check_integer("num_beams", 1, 64)
        self._check_number("length_penalty", -100.0, 100.0)
        if self.num_beams > 1:
            for name, without in (("temperature", 0.0), ("stop", ()), ("logprobs", False)):
                if getattr(self, name) != without:
                    raise InputError(
                        f"{name} must be {without!r} with beam search (num_beams {self.num_beams}), "
                        f"got {getattr(self, name)!r}"
                    )

    def _check_integer(self, name: str, low: int, high: int | None = None, high_name: str = "") -> None:
        value = getattr(self, name)
        if type(value) is not int or value < low or (high is not None and value > high):
            limit = f"from {low} to {high_name}{' ' if high_name else ''}{high}" if high is not None else f"of {low} up"
            raise InputError(f"{name} must be an integer {limit}, got {value!r}")

    def _check_number(self, name: str, low: float, high: float, *, above: bool = False) -> None:
        value = getattr(self, name)
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not number or not low <= value <= high or (above and value == low):
            raise InputError(f"{name} must be a number {'above' if above else 'from'} {low} to {high}, got {value!r}")
