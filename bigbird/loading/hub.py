"""A directory, or a Hugging Face hub id, as a directory on this disk.

A directory is taken as it is. Anything else is a hub id and goes through the `huggingface_hub` package, an optional
extra, which brings its own cache, its offline mode (HF_HUB_OFFLINE) and its endpoint (HF_ENDPOINT).

Knows file names of the Hugging Face layout; knows nothing of what is in the files.
"""

import os
import re
from pathlib import Path

from bigbird.errors import CheckpointError

_SMALL_FILES = ("*.json", "spiece.model")
_SAFE_WEIGHTS = "model*.safetensors"
_LEGACY_WEIGHTS = "pytorch_model*.bin"
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def resolve(dir_or_hub_id: str | os.PathLike[str], *, weights: bool = True) -> Path:
    """The directory that holds a checkpoint.

    dir_or_hub_id: a directory, or a hub id such as "google/bigbird-roberta-base".
    weights: fetch the weights too (safetensors where the repository has them, else the legacy files), not only the
        configuration and the tokenizer. Without meaning for a directory.
    Raises CheckpointError when it is neither, when `huggingface_hub` is not installed, or when the hub (or, in
    offline mode, the cache) does not have it.
    """
    name = os.fspath(dir_or_hub_id)
    path = Path(name).expanduser()
    if name and path.is_dir():
        return path
    if path.is_file():
        raise CheckpointError(f"{name}: expected a directory with config.json, found a file")
    if not _HUB_ID.fullmatch(name) or name.startswith("."):
        raise CheckpointError(f"{name}: there is no such directory, and it is not a hub id (name or owner/name)")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise CheckpointError(
            f"{name}: there is no such directory; loading a hub id needs the huggingface_hub package "
            "(the extra named hub)"
        ) from None
    try:
        found = Path(snapshot_download(name, allow_patterns=[*_SMALL_FILES, *([_SAFE_WEIGHTS] if weights else [])]))
        if weights and not any(found.glob(_SAFE_WEIGHTS)):
            found = Path(snapshot_download(name, allow_patterns=[*_SMALL_FILES, _LEGACY_WEIGHTS]))
    except Exception as error:  # its errors come from several packages: HTTP, file system, validation
        reason = str(error).strip().splitlines()
        raise CheckpointError(
            f"{name}: there is no such directory, and the hub or its cache did not give it: "
            f"{type(error).__name__}: {reason[0] if reason else ''}"
        ) from error
    return found
