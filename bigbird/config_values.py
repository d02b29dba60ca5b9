"""What the values of a configuration may be, one by one, and the form in which they are kept.

Knows keys and ranges; nothing of the class that holds them, or of files.
"""

from collections.abc import Callable, Mapping
from typing import Any

from bigbird.errors import ConfigError

HIDDEN_ACTIVATIONS = ("gelu_new", "gelu", "gelu_fast", "gelu_pytorch_tanh", "relu", "silu", "swish", "tanh")
PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")

NOT_OF_THE_MODEL = {"model_type", "transformers_version", "torch_dtype", "dtype", "_name_or_path", "num_labels"}
"""Written by other libraries about themselves; they say nothing of the model and are neither kept nor written."""
KEPT = {
    "chunk_size_feed_forward",
    "finetuning_task",
    "name_or_path",
    "prefix",
    "task_specific_params",
    "tokenizer_class",
}
"""Keys of transformers' configurations that change no number here; given as arguments they are kept in `extra`."""
TOKEN_IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id")

Rule = tuple[str, Callable[[Any], bool]]


def _whole(least: int) -> Rule:
    return f"a whole number of at least {least}", lambda value: _is_whole(value) and value >= least


def _one_of(*allowed: str) -> Rule:
    return "one of " + ", ".join(allowed), lambda value: isinstance(value, str) and value in allowed


def _or_none(rule: Rule) -> Rule:
    return f"{rule[0]}, or None", lambda value: value is None or rule[1](value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_PROBABILITY: Rule = ("a number in [0, 1)", lambda value: _is_number(value) and 0 <= value < 1)
_FLAG: Rule = ("True or False", lambda value: isinstance(value, bool))
_ID: Rule = ("a whole number", _is_whole)

RULES: dict[str, Rule] = {
    "vocab_size": _whole(1),
    "hidden_size": _whole(1),
    "num_hidden_layers": _whole(0),
    "num_attention_heads": _whole(1),
    "intermediate_size": _whole(1),
    "hidden_act": _one_of(*HIDDEN_ACTIVATIONS),
    "hidden_dropout_prob": _PROBABILITY,
    "attention_probs_dropout_prob": _PROBABILITY,
    "classifier_dropout": _or_none(_PROBABILITY),
    "max_position_embeddings": _whole(1),
    "type_vocab_size": _whole(1),
    "initializer_range": ("a number of at least 0", lambda value: _is_number(value) and value >= 0),
    "layer_norm_eps": ("a number above 0", lambda value: _is_number(value) and value > 0),
    "use_bias": _FLAG,
    "rescale_embeddings": _FLAG,
    "attention_type": _one_of("block_sparse", "original_full"),
    "block_size": _whole(1),
    "num_random_blocks": _whole(0),
    "random_attention": _one_of("collapsed", "seeded"),
    "is_decoder": _FLAG,
    "add_cross_attention": _FLAG,
    "use_cache": _FLAG,
    "tie_word_embeddings": _FLAG,
    "pad_token_id": _or_none(_whole(0)),
    "bos_token_id": _or_none(_ID),
    "eos_token_id": (
        "a whole number, several, or None",
        lambda value: value is None or all(map(_is_whole, value if isinstance(value, tuple) else (value,))),
    ),
    "sep_token_id": _or_none(_ID),
    "output_attentions": _FLAG,
    "output_hidden_states": _FLAG,
    "return_dict": _FLAG,
    "problem_type": _or_none(_one_of(*PROBLEM_TYPES)),
    "id2label": (
        "labels numbered from 0 without a gap",
        lambda value: isinstance(value, dict) and len(value) > 0 and sorted(value) == list(range(len(value))),
    ),
    "architectures": ("names of classes", lambda value: all(isinstance(name, str) for name in value)),
    "extra": ("a mapping from names", lambda value: all(isinstance(key, str) for key in value)),
}
"""What each value may be by itself; what several may be together is `check`'s."""

CONFIG_KEYWORDS = {*RULES, *KEPT, "num_labels", "label2id"}
"""What a configuration may be given by name."""


def default_labels(num_labels: int) -> dict[int, str]:
    """`{0: "LABEL_0", ...}`, the names Hugging Face gives to unnamed labels."""
    require(_is_whole(num_labels) and num_labels >= 1, "num_labels", "a whole number of at least 1", num_labels)
    return {index: f"LABEL_{index}" for index in range(num_labels)}


def with_labels(values: Mapping[str, Any], current: Mapping[int, str] | None) -> dict[str, Any]:
    """The values with id2label alone for num_labels, id2label and label2id, which must agree."""
    found = dict(values)
    num_labels, label2id = found.pop("num_labels", None), found.pop("label2id", None)
    labels = found.get("id2label")
    if labels is not None:
        labels = in_form("id2label", labels)
        if label2id is not None:
            own = {label: index for index, label in labels.items()} if isinstance(labels, dict) else None
            require(dict(label2id) == own, "label2id", "the same labels as id2label", label2id)
    elif label2id is not None:
        labels = in_order(label2id)
    elif num_labels is not None:
        labels = default_labels(num_labels) if current is None or num_labels != len(current) else dict(current)
    if labels is None:
        found.pop("id2label", None)
        return found
    require(num_labels in (None, len(labels)), "num_labels", f"the number of labels, {len(labels)}", num_labels)
    return found | {"id2label": labels}


def in_order(label2id: Any) -> dict[int, str]:
    require(isinstance(label2id, Mapping), "label2id", "a mapping from labels to numbers", label2id)
    return {index: str(label) for label, index in sorted(label2id.items(), key=lambda item: item[1])}


def in_form(name: str, value: Any) -> Any:
    """A value as it is kept: what JSON has only one form for."""
    if name == "architectures" and value is None:
        return ()
    if name in ("eos_token_id", "architectures") and isinstance(value, list):
        return tuple(value)
    if name == "id2label" and isinstance(value, Mapping):
        try:
            return {int(index): str(label) for index, label in value.items()}
        except (TypeError, ValueError):
            return value
    return value


def require(holds: bool, key: str, expected: str, value: object) -> None:
    if not holds:
        raise ConfigError(f"{key} must be {expected}, got {value!r}")
