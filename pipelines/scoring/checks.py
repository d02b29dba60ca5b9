"""What a job refuses before anything starts: a model without the head, options that do not exist.

Every refusal is an InputError (or the library's CheckpointError) whose one line names what was expected and what
was found. Does not know Ray Data or output directories.
"""

import dataclasses
import hashlib
import json
import os
import socket
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from bigbird.config import BigBirdConfig
from bigbird.errors import CheckpointError, InputError
from bigbird.loading.hub import resolve
from bigbird.predictors.tasks import check_checkpoint
from bigbird.tokenization.tokenizer import BigBirdTokenizer

_MODEL_FILES = ("*.safetensors", "*.bin", "*.json", "*.model")
_BYTES_PER_WEIGHT = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}
_CHUNK_BYTES = 1 << 22


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What a job needs to know of a model without loading it, or of several.

    digest: covers weights, config and tokenizer. location: where actors load exactly these files from, a hub id at
    its revision; None where there is nothing to load. files: path and size of each, where all nodes must have them.
    encoder: digest of what is below the head, where that is asked for, and encoder_bytes of weight_bytes are its.
    """

    digest: str
    embedding_size: int
    weight_bytes: int
    location: str | None = None
    files: tuple[tuple[str, int], ...] = ()
    encoder: str | None = None
    encoder_bytes: int = 0

    @property
    def actor_bytes(self) -> int:
        """Memory of an actor: the weights and half as much again for packed copies and activations."""
        return int(self.weight_bytes * 1.5)


def inspect_model(task: str, model: str, dtype: str = "float32", options: Any = None) -> ModelInfo:
    """Read a checkpoint's files, not its tensors. options: those of the task, None for its defaults.

    Raises CheckpointError: no such checkpoint, a head that does not do `task`, no tokenizer, no weights,
    token-classification without a label map. InputError: options that the model cannot meet.
    """

    config = BigBirdConfig.from_pretrained(model)
    check_checkpoint(task, repr(model), config, options)
    BigBirdTokenizer.from_pretrained(model)
    directory = Path(resolve(model))
    raw = json.loads((directory / "config.json").read_text())
    if task == "token-classification" and not raw.get("id2label"):
        raise CheckpointError(f"{model!r} has no label map: config.json lacks id2label, which {task} needs")
    files = model_files(directory)
    sizes = {path: path.stat().st_size for path in files}
    weights = [path for path in files if path.suffix == ".safetensors"] or [p for p in files if p.suffix == ".bin"]
    if not weights:
        raise CheckpointError(f"{model!r} has no weights: neither *.safetensors nor *.bin")
    for path in weights:
        _check_whole(path)
    stored = 2 if str(raw.get("dtype", raw.get("torch_dtype"))) in ("float16", "bfloat16") else 4
    num_weights = sum(sizes[path] for path in weights) // stored
    return ModelInfo(
        digest=digest_of(directory),
        embedding_size=config.hidden_size,
        weight_bytes=num_weights * _BYTES_PER_WEIGHT.get(dtype, 4),
        location=location_of(model, directory),
        files=tuple((os.path.abspath(path), sizes[path]) for path in files) if Path(model).is_dir() else (),
    )


def location_of(model: str, directory: Path) -> str:
    """Where other processes, which run in other folders, load what is in `directory` from, which `model` led to: an
    absolute path, or a hub id at its revision."""
    if Path(model).is_dir():
        return os.path.abspath(model)
    if "://" not in model.removeprefix("hf://") and directory.parent.name == "snapshots":
        return f"hf://{model.removeprefix('hf://').partition('@')[0]}@{directory.name}"
    return model


def with_encoder(model: ModelInfo, dtype: str) -> ModelInfo:
    """The same, and which encoder the model has. Reads its weights."""
    if model.location is None:
        return model
    from bigbird.checkpoint import encoder_digest  # and torch, which nothing else here needs

    digest, num_weights = encoder_digest(model.location)
    return dataclasses.replace(model, encoder=digest, encoder_bytes=num_weights * _BYTES_PER_WEIGHT.get(dtype, 4))


def held_together(models: Sequence[ModelInfo]) -> ModelInfo:
    """What a process needs that holds these models: an encoder that several have is there once."""
    if len(models) == 1:
        return models[0]
    encoders = {model.encoder: model.encoder_bytes for model in models if model.encoder}
    heads = sum(model.weight_bytes - model.encoder_bytes for model in models)
    return ModelInfo(
        digest=hashlib.sha256("".join(model.digest for model in models).encode()).hexdigest(),
        embedding_size=0,
        weight_bytes=heads + sum(encoders.values()),
        files=tuple(dict.fromkeys(file for model in models for file in model.files)),
    )


def check_same(model: str, digest: str) -> None:
    """Raises CheckpointError where the files this machine loads `model` from are not those of `digest`."""
    if digest_of(Path(resolve(model))) != digest:
        raise CheckpointError(
            f"{model} on {socket.gethostname()} is not the checkpoint that the job started with: other files are "
            "there, or it was replaced since"
        )


def digest_of(directory: Path) -> str:
    """SHA-256 of what a checkpoint holds: weights, config and tokenizer."""
    stats = [(path, path.stat()) for path in model_files(directory)]
    return _digest_of(
        tuple((path, stat.st_size, (stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns)) for path, stat in stats)
    )


@lru_cache(maxsize=64)  # a process that runs many jobs with one model reads it once
def _digest_of(files: tuple[tuple[Path, int, tuple[int, ...]], ...]) -> str:
    """files: path and size of each, and what differs once it was written or replaced, even with its times kept."""
    hashed = hashlib.sha256()
    for path, size, _ in files:
        hashed.update(f"{path.name}:{size}\n".encode())
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                hashed.update(chunk)
    return hashed.hexdigest()


def model_files(directory: Path) -> list[Path]:
    """The files of a checkpoint that its digest covers."""
    return sorted({path for pattern in _MODEL_FILES for path in directory.glob(pattern) if path.is_file()})


def _check_whole(path: Path) -> None:
    """Raises CheckpointError for a file of weights that was cut short, as by a disk that was full."""
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="numpy"):
                pass
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is damaged: {error}") from error


def parse_options(kind: type, assignments: Sequence[str]) -> Any:
    """An options dataclass from `name=value` texts, each value read as the field's type.

    Raises InputError for a name that does not exist or is there twice, a value of another type, and what the dataclass
    refuses.
    """
    hints = typing.get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    values: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or name not in names:
            raise InputError(f"option {assignment!r}: expected NAME=VALUE with one of {', '.join(names)}")
        if name in values:
            raise InputError(f"option {name} is given twice")
        values[name] = _parse(text, hints[name], name)
    return kind(**values)


def _parse(text: str, hint: Any, name: str) -> Any:
    """A text as a value of the field's type; `none` is None only where it is not one of the field's own values."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        (hint,) = (part for part in typing.get_args(hint) if part is not type(None))
        if text.lower() == "none" and "none" not in typing.get_args(hint):
            return None
    expected = f"option {name}={text!r}: expected"
    if typing.get_origin(hint) is typing.Literal:
        if text not in typing.get_args(hint):
            raise InputError(f"{expected} one of {', '.join(typing.get_args(hint))}")
        return text
    if typing.get_origin(hint) is tuple:
        parts: Any = [part for part in text.split(",") if part]
        if text.startswith("["):
            try:
                parts = json.loads(text)
            except ValueError:
                raise InputError(f"{expected} values with a comma between, or a JSON list") from None
        kinds = typing.get_args(hint)
        kinds = kinds[:1] * len(parts) if kinds[-1] is Ellipsis else kinds
        if len(parts) != len(kinds):
            raise InputError(f"{expected} {len(kinds)} values in each list, found {len(parts)}")
        texts = [part if isinstance(part, str) else json.dumps(part) for part in parts]
        return tuple(_parse(part, kind, name) for part, kind in zip(texts, kinds, strict=True))
    if hint is bool:
        if text.lower() not in ("true", "false"):
            raise InputError(f"{expected} true or false")
        return text.lower() == "true"
    try:
        return hint(text) if hint in (int, float) else text
    except ValueError:
        raise InputError(f"{expected} {hint.__name__}") from None
