"""Files of weights in the Hugging Face layout: names to tensors, and back.

Reads `model.safetensors`, its shards with an index, and the legacy `pytorch_model.bin` (with its shards) without
running code from it. Safetensors are mapped into memory: a tensor is read when it is used. Writes safetensors.

Knows nothing of models or of which names belong in a file.
"""

import json
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bigbird.errors import CheckpointError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
LEGACY_SINGLE = "pytorch_model.bin"
LEGACY_INDEX = "pytorch_model.bin.index.json"

_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B")


def read_weights(directory: Path) -> dict[str, Tensor]:
    """Every tensor of the directory's weights, on the CPU, under the name the file gives it.

    Raises CheckpointError when there are none, a file is damaged, or an index and its shards disagree.
    """
    for name in (SINGLE, INDEX, LEGACY_SINGLE, LEGACY_INDEX):
        if (directory / name).is_file():
            return _read_shards(directory / name) if name in (INDEX, LEGACY_INDEX) else _read_file(directory / name)
    raise CheckpointError(f"{directory}: found no weights ({SINGLE}, {INDEX}, {LEGACY_SINGLE} or {LEGACY_INDEX})")


def write_weights(tensors: Mapping[str, Tensor], directory: Path, max_shard_bytes: int | None = None) -> None:
    """Writes safetensors, in shards with an index where one file would exceed max_shard_bytes.

    A file is complete before it takes the place of an older one; older shards and an older index are removed.
    """
    shards = _split(tensors, max_shard_bytes)
    names = [SINGLE] if len(shards) == 1 else _shard_names(len(shards))
    for name, shard in zip(names, shards, strict=True):
        ready = {key: tensor.detach().cpu().contiguous() for key, tensor in shard.items()}
        save_file(ready, directory / f".{name}.partial", metadata={"format": "pt"})
        os.replace(directory / f".{name}.partial", directory / name)
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(map(_num_bytes, tensors.values()))},
            "weight_map": {key: name for name, shard in zip(names, shards, strict=True) for key in shard},
        }
        (directory / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    else:
        (directory / INDEX).unlink(missing_ok=True)
    for path in directory.glob("model*.safetensors"):
        if path.name not in names and (path.name == SINGLE or _SHARD.fullmatch(path.name)):
            path.unlink()


def parse_size(size: int | str) -> int:
    """Bytes: a number, or a text such as "5GB" (powers of 1000) or "5GiB" (powers of 1024)."""
    if isinstance(size, int) and size > 0:
        return size
    match = _SIZE.fullmatch(str(size).strip().upper())
    if match is None:
        raise CheckpointError(f'max_shard_size must be a positive number of bytes or like "5GB", got {size!r}')
    number, prefix, binary = match.groups()
    return max(1, int(float(number) * (1024 if binary else 1000) ** " KMGT".index(prefix or " ")))


def _read_file(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: not a readable safetensors file: {error}") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path}: holds more than tensors, or is damaged, and is not loaded") from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a readable PyTorch file: {error}") from error
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{path}: expected a mapping from names to tensors")
    return dict(content)


def _read_shards(index: Path) -> dict[str, Tensor]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        places = {str(key): str(name) for key, name in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index}: not a readable index: {error!r}") from error
    tensors: dict[str, Tensor] = {}
    problems: list[str] = []
    for name in sorted(set(places.values())):
        path = index.parent / name
        if Path(name).name != name or not path.is_file():
            problems.append(f"no shard {name}")
            continue
        shard = _read_file(path)
        listed = {key for key, place in places.items() if place == name}
        problems += [f"no {key} in {name}" for key in sorted(listed - shard.keys())]
        problems += [f"{key} in {name} is not in the index" for key in sorted(shard.keys() - listed)]
        tensors |= shard
    if problems:
        raise CheckpointError(f"{index}: index and shards disagree: {'; '.join(problems)}")
    return tensors


def _split(tensors: Mapping[str, Tensor], max_shard_bytes: int | None) -> list[dict[str, Tensor]]:
    """Tensors in their order, in shards of at most max_shard_bytes; one larger than that stands alone."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for key, tensor in tensors.items():
        if max_shard_bytes is not None and shards[-1] and size + _num_bytes(tensor) > max_shard_bytes:
            shards.append({})
            size = 0
        shards[-1][key] = tensor
        size += _num_bytes(tensor)
    return shards


def _shard_names(count: int) -> list[str]:
    return [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def _num_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
