"""Loading a model from a checkpoint, and saving one.

A checkpoint is a directory with `config.json` and weights, or a hub id. Which names fit together is `weight_names`'
matter, the layout of weight files `weight_files`', and which class a checkpoint names `checkpoint`'s.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, Self, TypeVar, overload

import torch
from torch import Tensor, nn

from bigbird.config import BigBirdConfig
from bigbird.errors import CheckpointError
from bigbird.linear.undrawn import Undrawn
from bigbird.loading.generation_config import GenerationConfig
from bigbird.loading.hub import push, resolve
from bigbird.loading.options import LoadOptions, as_dtype
from bigbird.loading.weight_files import parse_size, read_weights, write_weights
from bigbird.loading.weight_names import LoadingInfo, Match, match_names
from bigbird.module import BigBirdModule

_Model = TypeVar("_Model", bound="PretrainedModel")


class PretrainedModel(BigBirdModule):
    """A model that is read from a checkpoint and written as one."""

    generation_config: GenerationConfig | None = None
    """Of a model that generates."""

    @overload
    @classmethod
    def from_pretrained(
        cls, dir_or_hub_id: str | os.PathLike[str], *, output_loading_info: Literal[True], **keywords: Any
    ) -> tuple[Self, LoadingInfo]: ...
    @overload
    @classmethod
    def from_pretrained(
        cls, dir_or_hub_id: str | os.PathLike[str], *, output_loading_info: Literal[False] = False, **keywords: Any
    ) -> Self: ...
    @classmethod
    def from_pretrained(
        cls, dir_or_hub_id: str | os.PathLike[str], *, output_loading_info: bool = False, **keywords: Any
    ) -> Self | tuple[Self, LoadingInfo]:
        """Load a checkpoint into this class, in evaluation mode; a head that the file lacks is drawn anew.

        keywords: `LoadOptions` (config, dtype, device, ...), `HubOptions` (revision, token, cache_dir, ...), and keys
        of the configuration with other values, for example num_labels=3. output_loading_info: what did not fit as well.
        Raises CheckpointError when the weights do not fit, ConfigError for a value, TypeError for another keyword.
        """
        model, info = load_into(cls, dir_or_hub_id, f"{cls.__name__}.from_pretrained", **keywords)
        return (model, info) if output_loading_info else model

    def save_pretrained(self, save_directory: str | os.PathLike[str], max_shard_size: int | str | None = "5GB") -> None:
        """Write `config.json` and `model.safetensors`, which transformers loads with equal logits.

        max_shard_size: bytes, or a text such as "5GB"; above it, shards with an index. None writes one file.
        """
        save_pretrained(self, save_directory, max_shard_size=max_shard_size)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Uploads what `save_pretrained` writes: see `bigbird.loading.hub.push`."""
        return push(self, repo_id, **options)


class SavesItself(Protocol):
    """A tokenizer, as far as saving goes."""

    def save_pretrained(self, directory: str | os.PathLike[str], /) -> None: ...


def load_into(
    model_class: type[_Model], dir_or_hub_id: str | os.PathLike[str], call: str = "load_into", **keywords: Any
) -> tuple[_Model, LoadingInfo]:
    """A checkpoint as a model of a given class, and what did not fit: see `PretrainedModel.from_pretrained`.

    call: whose keywords these are, for the error that refuses one.
    """
    options, hub_options, changes = LoadOptions.taken_from(call, keywords)
    directory = resolve(dir_or_hub_id, options=hub_options)
    stored = BigBirdConfig.from_pretrained(directory)
    given = stored if options.config is None else options.config
    config = (given if isinstance(given, BigBirdConfig) else BigBirdConfig.from_pretrained(given)).replace(**changes)
    outline = _outline(model_class, config)
    match = _match(
        outline,
        directory,
        promised=model_class.__name__ in stored.architectures,
        check_finite=options.check_finite,
        ignore_mismatched_sizes=options.ignore_mismatched_sizes,
    )
    match.report(directory, model_class.__name__)
    if outline.generation_config is not None:
        outline.generation_config = GenerationConfig.load(directory, config)
    parameter_type = options.parameter_type or _stored_type(directory, match.tensors)
    if match.drawn:
        model = model_class(config).to(device=options.place, dtype=parameter_type)
        model.generation_config = outline.generation_config
        _copy(model, match.tensors)
        return model.eval(), match.info
    for name, tensor in match.tensors.items():
        module_name, _, attribute = name.rpartition(".")
        # A copy, never the mapped file itself: the file may be overwritten while the model lives.
        loaded = tensor.to(device=options.place, dtype=parameter_type, copy=True)
        setattr(outline.get_submodule(module_name), attribute, nn.Parameter(loaded))
    outline.tie_weights()
    return outline.eval(), match.info


def load_weights(model: PretrainedModel, directory: str | os.PathLike[str], *, check_finite: bool = False) -> None:
    """Fills a model in place from a directory's weights, which must hold every parameter.

    Device, data type and mode of the model stay. Raises CheckpointError, the model then being as before.
    """
    path = resolve(directory)
    match = _match(model, path, promised=True, check_finite=check_finite)
    if match.drawn:
        raise CheckpointError(f"{path}: does not fit {type(model).__name__}: missing: {', '.join(match.drawn)}")
    match.report(path, type(model).__name__)
    _copy(model, match.tensors)


def save_pretrained(
    model: PretrainedModel,
    directory: str | os.PathLike[str],
    tokenizer: SavesItself | None = None,
    *,
    max_shard_size: int | str | None = None,
) -> None:
    """Writes config.json and safetensors, which transformers loads with equal logits; tied weights once.

    max_shard_size: bytes, or a text such as "5GB"; above it, shards with an index. None writes one file.
    Raises CheckpointError for a model whose parameters are no longer those of its class.
    """
    name = type(model).__name__
    outline = _outline(type(model), model.config)
    tensors = {key: parameter.detach() for key, parameter in model.named_parameters()}
    changed = {key for key, _ in outline.named_parameters()} ^ tensors.keys()
    changed = {key for key in changed if "pooler." not in key}
    if changed:
        raise CheckpointError(
            f"{name}: not savable, its parameters differ from the class's (prepared for inference?): "
            f"{', '.join(sorted(changed))}"
        )
    path = Path(directory)
    path.mkdir(parents=True, exist_ok=True)
    write_weights(tensors, path, None if max_shard_size is None else parse_size(max_shard_size))
    values = model.config.to_dict() | {"architectures": [name], "torch_dtype": str(model.dtype).removeprefix("torch.")}
    (path / "config.json").write_text(
        json.dumps(values, ensure_ascii=False, indent=2, sort_keys=True) + "\n", encoding="utf-8"
    )
    if model.generation_config is not None:
        model.generation_config.save(path)
    if tokenizer is not None:
        tokenizer.save_pretrained(path)


def _outline(model_class: type[_Model], config: BigBirdConfig) -> _Model:
    """A model without memory for its weights: names and shapes."""
    with torch.device("meta"), Undrawn():
        return model_class(config)


def _match(
    model: PretrainedModel,
    directory: Path,
    *,
    promised: bool,
    check_finite: bool,
    ignore_mismatched_sizes: bool = False,
) -> Match:
    return match_names(
        model,
        read_weights(directory),
        directory,
        bare=not model.encoder_prefix,
        tied=model.config.tie_word_embeddings,
        promised=promised,
        check_finite=check_finite,
        ignore_mismatched_sizes=ignore_mismatched_sizes,
    )


def _copy(model: PretrainedModel, tensors: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in tensors:
                parameter.copy_(tensors[name])


def _stored_type(directory: Path, tensors: Mapping[str, Tensor]) -> torch.dtype:
    """The type that config.json names, else that of the first tensor."""
    values = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    named = values.get("torch_dtype") or values.get("dtype")
    return as_dtype(named) if named is not None else next(tensor.dtype for tensor in tensors.values())
