"""How to train: the options of a fine-tuning run, checked, and the learning rate that follows from them."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Self

from bigbird.errors import InputError

BASE_RATE, BASE_WIDTH = 5e-5, 768
SCHEDULES = ("linear", "cosine", "constant")


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How to train. Raises InputError for a value out of its range.

    learning_rate: None takes one by the model's width (`settled`). lr_scheduler: what the rate does after the warm-up:
    falls to 0 after the last step, linearly or as half a cosine, or stays. warmup: share of the steps in which the rate
    rises; warmup_steps, where given, counts them instead. tokens_per_step: rows are gathered to about that many tokens
    for one update. max_tokens_per_batch: what one forward pass of one worker may hold; more is accumulated. mask_share:
    of masked-lm. gradient_checkpointing: recompute each layer in the backward pass: less memory for more time.
    freeze_encoder: train the head alone.
    """

    epochs: float = 3.0
    learning_rate: float | None = None
    lr_scheduler: Literal["linear", "cosine", "constant"] = "linear"
    warmup: float = 0.06
    warmup_steps: int | None = None
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    tokens_per_step: int = 16_384
    max_tokens_per_batch: int = 16_384
    mask_share: float = 0.15
    seed: int = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    gradient_checkpointing: bool = False
    freeze_encoder: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "learning_rate", "max_grad_norm", "tokens_per_step", "max_tokens_per_batch"):
            _check(name, getattr(self, name), lambda value: value > 0, "a number above 0")
        for name in ("weight_decay", "warmup_steps", "seed"):
            _check(name, getattr(self, name), lambda value: value >= 0, "a number of at least 0")
        _check("warmup", self.warmup, lambda value: 0 <= value <= 1, "a share between 0 and 1")
        _check("mask_share", self.mask_share, lambda value: 0 < value <= 1, "a share above 0 and at most 1")
        if self.warmup_steps is not None and self.warmup != TrainingOptions.warmup:
            raise InputError(f"warmup is {self.warmup} and warmup_steps {self.warmup_steps}: give one of them")
        if self.lr_scheduler not in SCHEDULES:
            raise InputError(f"lr_scheduler is {self.lr_scheduler!r}, expected one of {', '.join(SCHEDULES)}")
        if self.dtype not in ("float32", "bfloat16"):
            raise InputError(f"dtype is {self.dtype!r}, expected float32 or bfloat16")

    def settled(self, width: int) -> Self:
        """The options with a learning rate, where none is given: 5e-5 at 768, the base size, more for narrower models.

        The exponent is fitted to the shipped checkpoints, of width 128, which learn best at about 1e-3.
        """
        if self.learning_rate is not None:
            return self
        return replace(self, learning_rate=float(f"{BASE_RATE * (BASE_WIDTH / width) ** (5 / 3):.1e}"))

    def rate(self, step: int, num_steps: int) -> float:
        """The learning rate of a step, counted from 0, of `num_steps`: as transformers' schedules, so 0 at first."""
        assert self.learning_rate is not None, "options are settled before they are used"
        warmup = self.warmup_steps if self.warmup_steps is not None else math.ceil(self.warmup * num_steps)
        if step < warmup:
            return self.learning_rate * step / warmup
        left = (num_steps - step) / max(1, num_steps - warmup)
        shares = {"linear": left, "cosine": (1 - math.cos(math.pi * left)) / 2, "constant": 1.0}
        return self.learning_rate * shares[self.lr_scheduler]


def _check(name: str, value: float | None, holds: Callable[[float], bool], expected: str) -> None:
    if value is not None and not (math.isfinite(value) and holds(value)):
        raise InputError(f"{name} is {value}, expected {expected}")
