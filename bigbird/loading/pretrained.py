"""Loading a model from a checkpoint, and saving one.

A checkpoint is a directory with `config.json` and weights, or a hub id. Which names fit together is `weight_names`'
matter, the layout of weight files `weight_files`', and which class a checkpoint names `checkpoint`'s.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from bigbird.config import BigBirdConfig
from bigbird.errors import CheckpointError, ConfigError
from bigbird.loading.generation_config import GenerationConfig
from bigbird.loading.hub import resolve
from bigbird.loading.weight_files import parse_size, read_weights, write_weights
from bigbird.loading.weight_names import Match, match_names
from bigbird.module import BigBirdModule

_Model = TypeVar("_Model", bound="PretrainedModel")


class PretrainedModel(BigBirdModule):
    """A model that is read from a checkpoint and written as one."""

    generation_config: GenerationConfig | None = None
    """Of a model that generates."""

    @classmethod
    def from_pretrained(
        cls,
        directory_or_hub_id: str | Path,
        *,
        dtype: str | torch.dtype | None = None,
        device: torch.device | str | None = None,
        **config_overrides: Any,
    ) -> Self:
        """Load a checkpoint into this class: see `load_into`."""
        return load_into(cls, directory_or_hub_id, dtype=dtype, device=device, **config_overrides)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write `config.json` and `model.safetensors`, which transformers loads with equal logits."""
        save_pretrained(self, directory)


class SavesItself(Protocol):
    """A tokenizer, as far as saving goes."""

    def save_pretrained(self, directory: str | os.PathLike[str], /) -> None: ...


def load_config(dir_or_hub_id: str | os.PathLike[str]) -> BigBirdConfig:
    """The configuration of a checkpoint; raises CheckpointError or ConfigError naming the file."""
    path = resolve(dir_or_hub_id, weights=False) / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent}: found no config.json") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable JSON: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(values).__name__}")
    try:
        return BigBirdConfig.from_dict(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def load_into(
    model_class: type[_Model],
    dir_or_hub_id: str | os.PathLike[str],
    *,
    dtype: str | torch.dtype | None = None,
    device: torch.device | str | None = None,
    check_finite: bool = False,
    **config_overrides: Any,
) -> _Model:
    """A checkpoint as a model of a given class, in evaluation mode; a head that the file lacks is drawn anew.

    dtype: of the parameters, float32 when None. device: the CPU when None.
    check_finite: refuse weights that hold nan or inf.
    config_overrides: keys of the configuration with other values, for example num_labels=3.
    Raises CheckpointError when the weights do not fit, ConfigError for an override.
    """
    directory = resolve(dir_or_hub_id)
    config = load_config(directory)
    promised = model_class.__name__ in config.architectures
    config = config.replace(**config_overrides)
    parameter_type = _as_dtype(dtype)
    with torch.device("meta"):
        outline = model_class(config)
    match = _match(outline, directory, promised=promised, check_finite=check_finite)
    match.report(directory, model_class.__name__)
    if outline.generation_config is not None:
        outline.generation_config = GenerationConfig.load(directory, config)
    if match.drawn:
        model = model_class(config).to(device=device, dtype=parameter_type)
        model.generation_config = outline.generation_config
        _copy(model, match.tensors)
        return model.eval()
    for name, tensor in match.tensors.items():
        module_name, _, attribute = name.rpartition(".")
        # A copy, never the mapped file itself: the file may be overwritten while the model lives.
        loaded = tensor.to(device=device or "cpu", dtype=parameter_type, copy=True)
        setattr(outline.get_submodule(module_name), attribute, nn.Parameter(loaded))
    outline.tie_weights()
    return outline.eval()


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
    with torch.device("meta"):
        outline = type(model)(model.config)
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


def _match(model: PretrainedModel, directory: Path, *, promised: bool, check_finite: bool) -> Match:
    return match_names(
        model,
        read_weights(directory),
        directory,
        bare=not model.encoder_prefix,
        tied=model.config.tie_word_embeddings,
        promised=promised,
        check_finite=check_finite,
    )


def _copy(model: PretrainedModel, tensors: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in tensors:
                parameter.copy_(tensors[name])


def _as_dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    if dtype is None:
        return torch.float32
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ConfigError(f'dtype must be a floating-point type such as "float32" or "bfloat16", got {dtype!r}')
    return found
