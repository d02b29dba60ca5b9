"""A directory, a Hugging Face hub id or a URI, as a directory on this disk; and back to the hub.

A directory is taken as it is. Anything else is a hub id and goes through the `huggingface_hub` package, an optional
extra, which brings its own cache, its offline mode (HF_HUB_OFFLINE) and its endpoint (HF_ENDPOINT).

Knows file names of the Hugging Face layout; knows nothing of what is in the files.
"""

import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from bigbird.errors import CheckpointError
from bigbird.loading.remote import fetch_uri

_SMALL_FILES = ("*.json", "spiece.model")
_SAFE_WEIGHTS = "model*.safetensors"
_LEGACY_WEIGHTS = "pytorch_model*.bin"
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True, kw_only=True)
class HubOptions:
    """How a repository is fetched, by the names of transformers' `from_pretrained`; of a directory, subfolder alone.

    revision: a branch, tag or commit. token: of a private repository; True: the one stored on this machine.
    cache_dir: in the place of huggingface_hub's own. local_files_only: the cache and never the network.
    force_download: the network even for what the cache holds. subfolder: where in the repository the files lie.
    """

    revision: str | None = None
    token: str | bool | None = None
    cache_dir: str | os.PathLike[str] | None = None
    local_files_only: bool = False
    force_download: bool = False
    subfolder: str = ""

    @classmethod
    def taken_from(cls, keywords: Mapping[str, Any]) -> tuple[Self, dict[str, Any]]:
        """The options among keyword arguments, and the arguments left over."""
        names = {field.name for field in fields(cls)}
        return cls(**{k: v for k, v in keywords.items() if k in names}), {
            k: v for k, v in keywords.items() if k not in names
        }


HUB_KEYWORDS = tuple(field.name for field in fields(HubOptions))


def resolve(dir_or_hub_id: str | os.PathLike[str], *, weights: bool = True, options: HubOptions | None = None) -> Path:
    """The directory that holds a checkpoint.

    dir_or_hub_id: a directory, a hub id such as "google/bigbird-roberta-base", the same at a revision as
        "hf://google/bigbird-roberta-base@main", or a URI (`loading.remote`).
    weights: fetch the weights too (safetensors where the repository has them, else the legacy files), not only the
        configuration and the tokenizer. Without meaning for a directory.
    Raises CheckpointError when it is neither, when `huggingface_hub` is not installed, or when the hub (or, in
    offline mode, the cache) does not have it.
    """
    options = options or HubOptions()
    name = os.fspath(dir_or_hub_id)
    if name.startswith("hf://"):
        name, _, revision = name.removeprefix("hf://").partition("@")
        options = replace(options, revision=revision or options.revision)
    elif "://" in name:
        return _subfolder(name, fetch_uri(name), options)
    path = Path(name).expanduser()
    if name and path.is_dir():
        return _subfolder(name, path, options)
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

    def fetch(*patterns: str) -> Path:
        below = f"{options.subfolder}/" if options.subfolder else ""
        root = snapshot_download(
            name,
            allow_patterns=[below + pattern for pattern in (*_SMALL_FILES, *patterns)],
            revision=options.revision,
            token=options.token,
            cache_dir=None if options.cache_dir is None else Path(options.cache_dir),
            local_files_only=options.local_files_only,
            force_download=options.force_download,
        )
        return _subfolder(name, Path(root), options)

    try:
        found = fetch(_SAFE_WEIGHTS) if weights else fetch()
        if weights and not any(found.glob(_SAFE_WEIGHTS)):
            found = fetch(_LEGACY_WEIGHTS)
    except CheckpointError:
        raise
    except Exception as error:  # its errors come from several packages: HTTP, file system, validation
        reason = str(error).strip().splitlines()
        raise CheckpointError(
            f"{name}: there is no such directory, and the hub or its cache did not give it: "
            f"{type(error).__name__}: {reason[0] if reason else ''}"
        ) from error
    return found


def push(
    saved: Any,
    repo_id: str,
    *,
    commit_message: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    **save_options: Any,
) -> str:
    """Uploads what `saved.save_pretrained` writes to a repository of the hub, which is made where there is none.

    Returns the commit's address. Raises CheckpointError without the huggingface_hub package, and its own errors.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise CheckpointError(f"{repo_id}: uploading needs the huggingface_hub package (the extra named hub)") from None
    api = HfApi(token=token)
    repository = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    with tempfile.TemporaryDirectory() as directory:
        saved.save_pretrained(directory, **save_options)
        return str(
            api.upload_folder(
                repo_id=repository,
                folder_path=directory,
                commit_message=commit_message or f"Upload {type(saved).__name__}",
                revision=revision,
                create_pr=create_pr,
            )
        )


def _subfolder(name: str, root: Path, options: HubOptions) -> Path:
    found = root / options.subfolder
    if not found.is_dir():
        raise CheckpointError(f"{name}: there is no subfolder {options.subfolder}")
    return found
