"""BigBirdConfig: the keys of a Hugging Face `config.json`, validated.

Knows what each value may be and what follows from it (head width, the length up to which attention is full).
Does not read files; `bigbird.loading.pretrained` does.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from bigbird.errors import ConfigError

HIDDEN_ACTIVATIONS = ("gelu_new", "gelu", "gelu_fast", "gelu_pytorch_tanh", "relu", "silu", "swish", "tanh")
PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")

# Written by other libraries about themselves; they say nothing of the model and are neither kept nor written.
_NOT_OF_THE_MODEL = {"model_type", "transformers_version", "torch_dtype", "dtype", "_name_or_path", "num_labels"}


@dataclass(frozen=True, kw_only=True)
class BigBirdConfig:
    """Configuration of a BigBird model; names and defaults are those of `config.json`.

    `random_attention` is ours: "collapsed" (the random blocks all fall on block 0 in evaluation, as transformers
    computes since 4.30) or "seeded" (evaluation reads the random blocks that training reads). Training always
    draws seeded blocks. Keys this class does not know are kept in `extra` and written back by `to_dict`.

    Raises ConfigError for a value outside its range; the message names key and value.
    """

    vocab_size: int = 50358
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu_new"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    classifier_dropout: float | None = None
    max_position_embeddings: int = 4096
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    use_bias: bool = True
    rescale_embeddings: bool = False
    attention_type: Literal["block_sparse", "original_full"] = "block_sparse"
    block_size: int = 64
    num_random_blocks: int = 3
    random_attention: Literal["collapsed", "seeded"] = "collapsed"
    is_decoder: bool = False
    add_cross_attention: bool = False
    use_cache: bool = True
    tie_word_embeddings: bool = True
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | tuple[int, ...] | None = 2
    sep_token_id: int | None = 66
    output_attentions: bool = False
    output_hidden_states: bool = False
    return_dict: bool = True
    problem_type: str | None = None
    id2label: Mapping[int, str] = field(default_factory=lambda: {0: "LABEL_0", 1: "LABEL_1"})
    architectures: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in (
            "vocab_size",
            "hidden_size",
            "num_attention_heads",
            "intermediate_size",
            "block_size",
            "max_position_embeddings",
            "type_vocab_size",
        ):
            _require(getattr(self, key) >= 1, key, "at least 1", getattr(self, key))
        for key in ("num_hidden_layers", "num_random_blocks"):
            _require(getattr(self, key) >= 0, key, "at least 0", getattr(self, key))
        for key in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"):
            value = getattr(self, key)
            _require(value is None or 0 <= value < 1, key, "in [0, 1)", value)
        _require(
            self.hidden_size % self.num_attention_heads == 0,
            "hidden_size",
            f"a multiple of num_attention_heads={self.num_attention_heads}",
            self.hidden_size,
        )
        _require_one_of("hidden_act", self.hidden_act, HIDDEN_ACTIVATIONS)
        _require_one_of("attention_type", self.attention_type, ("block_sparse", "original_full"))
        _require_one_of("random_attention", self.random_attention, ("collapsed", "seeded"))
        if self.problem_type is not None:
            _require_one_of("problem_type", self.problem_type, PROBLEM_TYPES)
        _require(
            self.is_decoder or not self.add_cross_attention,
            "add_cross_attention",
            "False unless is_decoder",
            self.add_cross_attention,
        )
        _require(
            sorted(self.id2label) == list(range(len(self.id2label))),
            "id2label",
            "labels numbered from 0 without a gap",
            dict(self.id2label),
        )

    @property
    def num_labels(self) -> int:
        return len(self.id2label)

    @property
    def label2id(self) -> dict[str, int]:
        return {label: index for index, label in self.id2label.items()}

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def full_attention_limit(self) -> int:
        """Longest row, in tokens, that a block-sparse model reads with full attention (704 for base)."""
        return (5 + 2 * self.num_random_blocks) * self.block_size

    def is_sparse(self, length: int) -> bool:
        """Whether a row of `length` tokens is read with block-sparse attention."""
        return self.attention_type == "block_sparse" and not self.is_decoder and length > self.full_attention_limit

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "BigBirdConfig":
        """Read the mapping that `config.json` holds. Raises ConfigError when it is not a BigBird's."""
        model_type = values.get("model_type", "big_bird")
        _require(model_type == "big_bird", "model_type", '"big_bird"', model_type)
        known = {f.name for f in fields(cls)} - {"extra"}
        arguments = {key: value for key, value in values.items() if key in known and value is not None}
        for key in known & values.keys() - arguments.keys():
            if key in ("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id"):
                arguments[key] = None
        if isinstance(arguments.get("eos_token_id"), list):
            arguments["eos_token_id"] = tuple(arguments["eos_token_id"])
        arguments["architectures"] = tuple(arguments.get("architectures", ()))
        label2id = values.get("label2id")
        if "id2label" in arguments:
            arguments["id2label"] = {int(index): str(label) for index, label in arguments["id2label"].items()}
        elif label2id:
            arguments["id2label"] = {int(index): str(label) for label, index in label2id.items()}
        elif "num_labels" in values:
            arguments["id2label"] = default_labels(int(values["num_labels"]))
        unknown = values.keys() - known - _NOT_OF_THE_MODEL - {"label2id"}
        arguments["extra"] = {key: values[key] for key in sorted(unknown)}
        try:
            return cls(**arguments)
        except TypeError as error:
            raise ConfigError(f"config.json holds a value of the wrong type: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """The mapping to write as `config.json`; `from_dict` reads it back equal."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "extra"}
        values["architectures"] = list(self.architectures)
        values["id2label"] = {str(index): label for index, label in self.id2label.items()}
        values["label2id"] = self.label2id
        return {**self.extra, **values, "model_type": "big_bird"}

    def replace(self, **changes: Any) -> "BigBirdConfig":
        """A copy with other values. `num_labels=n` stands for n default labels, unless it is n already."""
        num_labels = changes.pop("num_labels", None)
        if num_labels is not None and num_labels != len(changes.get("id2label", self.id2label)):
            _require("id2label" not in changes, "num_labels", "the number of labels in id2label", num_labels)
            changes["id2label"] = default_labels(num_labels)
        unknown = changes.keys() - {f.name for f in fields(self)}
        if unknown:
            raise ConfigError(f"no such configuration key: {', '.join(sorted(unknown))}")
        return replace(self, **changes)


def default_labels(num_labels: int) -> dict[int, str]:
    """`{0: "LABEL_0", ...}`, the names Hugging Face gives to unnamed labels."""
    _require(num_labels >= 1, "num_labels", "at least 1", num_labels)
    return {index: f"LABEL_{index}" for index in range(num_labels)}


def _require(holds: bool, key: str, expected: str, value: object) -> None:
    if not holds:
        raise ConfigError(f"{key} must be {expected}, got {value!r}")


def _require_one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    _require(value in allowed, key, "one of " + ", ".join(allowed), value)
