"""What every model class is, apart from files: configuration, embeddings, size, device, gradient checkpointing.

The methods that transformers' documentation, its `Trainer` and its pipelines call, by their names. Reading and
writing checkpoints is added by `bigbird.loading.pretrained`.
"""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from bigbird.config import BigBirdConfig
from bigbird.errors import ConfigError, InputError
from bigbird.layers import CHECKPOINT_ARGUMENTS, Embeddings, Encoder


class BigBirdModule(nn.Module):
    """What the bare model and every head share."""

    encoder_prefix = "bert."
    """What stands before the encoder's parameter names; nothing in the bare model."""
    base_model_prefix = "bert"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    framework = "pt"
    precision: str | None = None
    """What `prepare_for_inference` made it for, such as "bfloat16": then it keeps its mode, device and type."""

    def __init__(self, config: BigBirdConfig) -> None:
        super().__init__()
        config.check()
        self.config = config

    def train(self, mode: bool = True) -> Self:
        """As nn.Module. Raises ConfigError for a model that is prepared for inference."""
        if mode and self.precision is not None:
            raise ConfigError("a model prepared for inference does not train; train the loaded one")
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What `.to`, `.half` and the like go through."""
        if self.precision is not None:
            kept = torch.empty(0, dtype=self.dtype, device=self.device)
            changed = fn(kept)
            if (changed.dtype, changed.device) != (kept.dtype, kept.device):
                raise ConfigError(
                    f"a model prepared for inference stays {str(self.dtype).removeprefix('torch.')} on {self.device}; "
                    f"convert or move the loaded one, then prepare it"
                )
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def can_generate(self) -> bool:
        """Whether the model has `generate`."""
        return hasattr(self, "generate")

    @property
    def base_model(self) -> "BigBirdModule":
        """The bare model below the head; the bare model itself."""
        below: BigBirdModule = getattr(self, self.base_model_prefix, self)
        return below

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Number of parameters; tied ones count once."""
        embeddings = [m for m in self.modules() if isinstance(m, nn.Embedding)] if exclude_embeddings else []
        left_out = {id(p) for module in embeddings for p in module.parameters()}
        return sum(
            p.numel() for p in self.parameters() if id(p) not in left_out and (p.requires_grad or not only_trainable)
        )

    def get_input_embeddings(self) -> nn.Embedding:
        """The word embeddings, (vocab_size, hidden_size)."""
        return self._embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Put other word embeddings in their place; a tied decoder follows."""
        self._embeddings.word_embeddings = value
        self.tie_weights()

    def get_output_embeddings(self) -> nn.Linear | None:
        """The decoder over the vocabulary; None for a model without one."""
        return None

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Put another decoder over the vocabulary in its place."""
        raise ConfigError(f"{type(self).__name__} has no output embeddings")

    def tie_weights(self) -> None:
        """Let parameters that are one in the configuration be one; only language models have such."""

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None
    ) -> nn.Embedding:
        """Grow or shrink the vocabulary in place and return the word embeddings.

        new_num_tokens: entries from now on, None for as many as before. pad_to_multiple_of: round them up to one.
        Kept entries stay as they are, new ones are drawn as at the beginning, new biases are zero; decoder and
        `config.vocab_size` follow. Raises InputError for a number out of range, ConfigError for a model that is
        prepared for inference.
        """
        old, decoder = self.get_input_embeddings(), self.get_output_embeddings()
        size = _rounded(old.num_embeddings if new_num_tokens is None else new_num_tokens, pad_to_multiple_of)
        if old.padding_idx is not None and size <= old.padding_idx:
            raise InputError(f"new_num_tokens is {size}, which leaves out pad_token_id={old.padding_idx}")
        if size == old.num_embeddings:
            return old
        new = nn.Embedding(size, old.embedding_dim, old.padding_idx, device=self.device, dtype=self.dtype)
        self._keep(new.weight, old.weight)
        new.requires_grad_(old.weight.requires_grad)
        self._embeddings.word_embeddings = new
        if decoder is not None:
            larger = nn.Linear(decoder.in_features, size, device=self.device, dtype=self.dtype)
            self._keep(larger.weight, decoder.weight)
            nn.init.zeros_(larger.bias)
            larger.bias.data[: len(decoder.bias)] = decoder.bias.detach()[:size]
            self.set_output_embeddings(larger)
        for module in self.modules():
            if isinstance(module, BigBirdModule):
                module.config = module.config.replace(vocab_size=size)
        self.tie_weights()
        return new

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any] | None = None) -> None:
        """Recompute layers in the backward pass: less memory for a third more time.

        gradient_checkpointing_kwargs: arguments of torch.utils.checkpoint.checkpoint; `use_reentrant` is False where
        it is not given.
        """
        given = gradient_checkpointing_kwargs or {}
        if unknown := sorted(given.keys() - CHECKPOINT_ARGUMENTS):
            raise InputError(f"gradient_checkpointing_kwargs has {unknown[0]!r}, expected {CHECKPOINT_ARGUMENTS}")
        for encoder in self._encoders:
            encoder.checkpointing, encoder.checkpoint_every = {"use_reentrant": False, **given}, 1

    def activation_checkpointing_enable(
        self,
        activation_checkpointing_kwargs: dict[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """The same by the name of transformers 5. every_n_layers: recompute only every n-th layer."""
        if offload:
            raise InputError("offload=True: states stay on their device here; use torch.autograd.graph.save_on_cpu")
        if every_n_layers < 1:
            raise InputError(f"every_n_layers is {every_n_layers}, expected an integer of at least 1")
        self.gradient_checkpointing_enable(activation_checkpointing_kwargs)
        for encoder in self._encoders:
            encoder.checkpoint_every = every_n_layers

    def activation_checkpointing_disable(self) -> None:
        """The same as gradient_checkpointing_disable."""
        self.gradient_checkpointing_disable()

    def gradient_checkpointing_disable(self) -> None:
        """Keep all states for the backward pass again."""
        for encoder in self._encoders:
            encoder.checkpointing = None

    @property
    def is_gradient_checkpointing(self) -> bool:
        return any(encoder.checkpointing is not None for encoder in self._encoders)

    @property
    def is_activation_checkpointing(self) -> bool:
        return self.is_gradient_checkpointing

    def initialise(self) -> None:
        """Draw all weights anew: normal with deviation `initializer_range`, biases zero, norms one."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=self.config.initializer_range)
                if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                    nn.init.zeros_(module.weight[module.padding_idx])
                if isinstance(module, nn.Linear) and module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)

    @property
    def _embeddings(self) -> Embeddings:
        return next(module for module in self.modules() if isinstance(module, Embeddings))

    @property
    def _encoders(self) -> list[Encoder]:
        return [module for module in self.modules() if isinstance(module, Encoder)]

    def _keep(self, new: Tensor, old: Tensor) -> None:
        """Fill `new` with the rows of `old`, and what is beyond them as at the beginning."""
        nn.init.normal_(new, std=self.config.initializer_range)
        with torch.no_grad():
            new[: len(old)] = old[: len(new)]


def _rounded(size: int, multiple: int | None) -> int:
    for name, value in (("new_num_tokens", size), ("pad_to_multiple_of", 1 if multiple is None else multiple)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"{name} is {value!r}, expected an integer of at least 1")
    return size if multiple is None else -(-size // multiple) * multiple
