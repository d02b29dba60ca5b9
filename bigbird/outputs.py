"""Results of the forward passes, with the field names of Hugging Face's model outputs.

A result reads as a dataclass (`out.logits`), as an ordered mapping (`out["logits"]`, `out.items()`, `dict(out)`) and
as the documented tuple (`out[0]`, `out[:2]`, `loss, logits = out`): fields that are None take no place in either.
Going over a result gives its values, where transformers' gives the names of `out.keys()`. In all of them

    hidden_states     the embeddings and one tensor a layer, each (batch, seq_len, hidden_size)
    attentions        one tensor a layer, (batch, num_heads, seq_len, seq_len), rows summing to one
    cross_attentions  one tensor a layer, (batch, num_heads, seq_len, encoder_length)
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

PastKeyValues = tuple[tuple[Tensor, ...], ...]
"""One tuple a layer: key and value of self-attention, each (batch, num_heads, past_length, head_dim), and with
cross-attention its key and value as well, each (batch, num_heads, encoder_length, head_dim)."""


@dataclass(kw_only=True)
class ModelOutput:
    """Behaviour that all results share; not constructed itself."""

    def to_tuple(self) -> tuple[Any, ...]:
        return tuple(value for _, value in self.items())

    def items(self) -> list[tuple[str, Any]]:
        return [(name, value) for name, value in vars(self).items() if value is not None]

    def keys(self) -> list[str]:
        return [name for name, _ in self.items()]

    def values(self) -> list[Any]:
        return [value for _, value in self.items()]

    def get(self, key: str, default: Any = None) -> Any:
        return dict(self.items()).get(key, default)

    def update(self, values: Mapping[str, Any] | None = None, **more: Any) -> None:
        """Put other values into fields, or beside them."""
        for name, value in {**(values or {}), **more}.items():
            self[name] = value

    def __setitem__(self, key: str, value: Any) -> None:
        setattr(self, key, value)

    def __getitem__(self, key: int | slice | str) -> Any:
        return dict(self.items())[key] if isinstance(key, str) else self.to_tuple()[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.to_tuple())

    def __len__(self) -> int:
        return len(self.items())

    def __contains__(self, key: object) -> bool:
        return key in self.keys()


@dataclass(kw_only=True)
class BaseModelOutput(ModelOutput):
    """last_hidden_state: (batch, seq_len, hidden_size), zeros at padding. pooler_output: (batch, hidden_size)."""

    last_hidden_state: Tensor
    pooler_output: Tensor | None = None
    past_key_values: PastKeyValues | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


@dataclass(kw_only=True)
class PreTrainingOutput(ModelOutput):
    """prediction_logits: (batch, seq_len, vocab_size). seq_relationship_logits: (batch, 2)."""

    loss: Tensor | None = None
    prediction_logits: Tensor
    seq_relationship_logits: Tensor
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass(kw_only=True)
class LogitsOutput(ModelOutput):
    """logits, shaped as the head's documentation says: (batch, seq_len, vocab_size) for masked language models,
    (batch, seq_len, num_labels) for tokens, (batch, num_labels) for sequences, (batch, num_choices) for choices."""

    loss: Tensor | None = None
    logits: Tensor
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass(kw_only=True)
class CausalLMOutput(ModelOutput):
    """logits: (batch, seq_len, vocab_size)."""

    loss: Tensor | None = None
    logits: Tensor
    past_key_values: PastKeyValues | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


@dataclass(kw_only=True)
class QuestionAnsweringOutput(ModelOutput):
    """start_logits, end_logits: (batch, seq_len). pooler_output: (batch, hidden_size), where the model has one."""

    loss: Tensor | None = None
    start_logits: Tensor
    end_logits: Tensor
    pooler_output: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
