"""BigBirdConfig: the keys of a Hugging Face `config.json`, validated.

Knows what follows from the values (head width, the length up to which attention is full), and the file they are read
from and written to; what each may be is `config_values`' matter.
"""

import json
import os
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

from bigbird.config_values import (
    CONFIG_KEYWORDS,
    KEPT,
    NOT_OF_THE_MODEL,
    RULES,
    TOKEN_IDS,
    default_labels,
    in_form,
    in_order,
    require,
    with_labels,
)
from bigbird.errors import CheckpointError, ConfigError
from bigbird.loading.hub import HUB_KEYWORDS, HubOptions, push, resolve
from bigbird.loading.keywords import refuse_unknown


@dataclass(kw_only=True, init=False)
class BigBirdConfig:
    """Configuration of a BigBird model; names and defaults are those of `config.json`.

    Values can be assigned, as in transformers; a model reads sizes when it is made. Two configurations are equal when
    all their values are. `num_labels=n` stands for n default labels, `label2id` for the labels it numbers. Keys this
    class does not know are attributes too, kept in `extra` and written back by `to_dict`.

    `random_attention` is ours: "collapsed" (the random blocks all fall on block 0 in evaluation, as transformers
    computes since 4.30) or "seeded" (evaluation reads the random blocks that training reads). Training always
    draws seeded blocks.

    Raises ConfigError for a value outside its range, naming key and value; TypeError for an argument that is no key.
    """

    model_type: ClassVar[str] = "big_bird"
    is_encoder_decoder: ClassVar[bool] = False

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
    id2label: dict[int, str] = field(default_factory=lambda: default_labels(2))
    architectures: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)

    def __init__(self, **values: Any) -> None:
        refuse_unknown("BigBirdConfig", values, CONFIG_KEYWORDS | NOT_OF_THE_MODEL | {"is_encoder_decoder"})
        for name, only in (("model_type", self.model_type), ("is_encoder_decoder", False)):
            require(values.get(name, only) == only, name, repr(only), values.get(name))
        values = with_labels(values, None)
        extra = values.pop("extra", None) or {}
        require(isinstance(extra, Mapping), "extra", RULES["extra"][0], extra)
        extra = {**extra, **{key: values.pop(key) for key in sorted(KEPT & values.keys())}}
        object.__setattr__(self, "extra", extra)
        for each in fields(self):
            default = each.default_factory() if callable(each.default_factory) else each.default
            setattr(self, each.name, extra if each.name == "extra" else values.get(each.name, default))
        self.check()

    def __setattr__(self, name: str, value: Any) -> None:
        if name in RULES:
            value = in_form(name, value)
            expected, holds = RULES[name]
            try:
                fits = holds(value)
            except TypeError:
                fits = False
            require(fits, name, expected, value)
        elif name == "num_labels":
            name, value = "id2label", default_labels(value) if value != self.num_labels else self.id2label
        elif name == "label2id":
            name, value = "id2label", in_order(value)
        elif name not in NOT_OF_THE_MODEL:
            self.extra[name] = value
            return
        object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["extra"][name]
        except KeyError:
            raise AttributeError(f"BigBirdConfig has no {name}") from None

    def check(self) -> None:
        """Raises ConfigError for values that do not go together."""
        require(
            self.hidden_size % self.num_attention_heads == 0,
            "hidden_size",
            f"a multiple of num_attention_heads={self.num_attention_heads}",
            self.hidden_size,
        )
        require(
            self.is_decoder or not self.add_cross_attention,
            "add_cross_attention",
            "False unless is_decoder",
            self.add_cross_attention,
        )
        require(
            self.pad_token_id is None or self.pad_token_id < self.vocab_size,
            "pad_token_id",
            f"below vocab_size={self.vocab_size}",
            self.pad_token_id,
        )

    @property
    def num_labels(self) -> int:
        return len(self.id2label)

    @property
    def label2id(self) -> dict[str, int]:
        return {label: index for index, label in self.id2label.items()}

    @property
    def use_return_dict(self) -> bool:
        return self.return_dict

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
    def from_pretrained(cls, dir_or_hub_id: str | os.PathLike[str], **keywords: Any) -> "BigBirdConfig":
        """The config.json of a directory or hub id, or the file itself.

        keywords: `HubOptions`, and keys with other values than the file's. Raises CheckpointError or ConfigError
        naming the file, TypeError for another keyword.
        """
        options, changes = HubOptions.taken_from(keywords)
        refuse_unknown(f"{cls.__name__}.from_pretrained", changes, {*CONFIG_KEYWORDS, *HUB_KEYWORDS})
        path = Path(dir_or_hub_id)
        if not path.is_file():
            path = resolve(dir_or_hub_id, weights=False, options=options) / "config.json"
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CheckpointError(f"{path.parent}: found no config.json") from None
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path}: not readable JSON: {error}") from error
        if not isinstance(values, dict):
            raise CheckpointError(f"{path}: expected a JSON object, found {type(values).__name__}")
        try:
            return cls.from_dict(values).replace(**changes)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "BigBirdConfig":
        """Read the mapping that `config.json` holds. Raises ConfigError when it is not a BigBird's."""
        model_type = values.get("model_type", "big_bird")
        require(model_type == "big_bird", "model_type", '"big_bird"', model_type)
        known = RULES.keys() - {"extra"}
        # Of a file null is no value, and its default holds; an id may be none.
        arguments = {k: v for k, v in values.items() if k in known and (v is not None or k in TOKEN_IDS)}
        for key in ("label2id", "num_labels"):
            if "id2label" not in arguments and values.get(key):
                arguments[key] = values[key]
        unknown = values.keys() - known - NOT_OF_THE_MODEL - {"label2id"}
        return cls(**arguments, extra={key: values[key] for key in sorted(unknown)})

    def to_dict(self) -> dict[str, Any]:
        """The mapping to write as `config.json`; `from_dict` reads it back equal."""
        values = {each.name: deepcopy(getattr(self, each.name)) for each in fields(self) if each.name != "extra"}
        values["architectures"] = list(self.architectures)
        values["id2label"] = {str(index): label for index, label in self.id2label.items()}
        values["label2id"] = self.label2id
        if isinstance(self.eos_token_id, tuple):
            values["eos_token_id"] = list(self.eos_token_id)
        return {**deepcopy(self.extra), **values, "model_type": self.model_type}

    def to_json_string(self) -> str:
        """`to_dict` as it is written."""
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=2, sort_keys=True) + "\n"

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> None:
        """Write config.json, which transformers reads."""
        path = Path(save_directory)
        path.mkdir(parents=True, exist_ok=True)
        (path / "config.json").write_text(self.to_json_string(), encoding="utf-8")

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Uploads config.json: see `bigbird.loading.hub.push`."""
        return push(self, repo_id, **options)

    def replace(self, **changes: Any) -> "BigBirdConfig":
        """A copy with other values. `num_labels=n` stands for n default labels, unless it is n already."""
        unknown = changes.keys() - CONFIG_KEYWORDS
        if unknown:
            raise ConfigError(f"no such configuration key: {', '.join(sorted(unknown))}")
        values = {each.name: deepcopy(getattr(self, each.name)) for each in fields(self)}
        return BigBirdConfig(**values | with_labels(changes, self.id2label))
