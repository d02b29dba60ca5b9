"""A checkpoint at a URI, as a directory on this disk: fetched once a machine, whatever number of processes asks.

`hf://owner/name@revision` goes through the hub; `s3://`, `gs://` and what else pyarrow opens (an optional package) are
copied into BIGBIRD_CACHE, else ~/.cache/bigbird. The copy's name follows from names, sizes and times of the files
there, so a checkpoint that was replaced is fetched anew.
"""

import fcntl
import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from bigbird.errors import CheckpointError

_SUFFIXES = (".json", ".safetensors", ".bin", ".model")
_CHUNK_BYTES = 8 << 20


def fetch_uri(uri: str) -> Path:
    """The directory that holds a copy of the checkpoint at `uri`. Raises CheckpointError where it cannot be had."""
    try:
        import pyarrow.fs as pafs
    except ImportError:
        raise CheckpointError(f"{uri}: reading a URI needs the pyarrow package") from None
    try:
        filesystem, path = pafs.FileSystem.from_uri(uri)
        found = filesystem.get_file_info(pafs.FileSelector(path))
        files = sorted((info for info in found if info.is_file and info.path.endswith(_SUFFIXES)), key=lambda i: i.path)
        if not any(info.base_name == "config.json" for info in files):
            raise CheckpointError(f"{uri}: there is no config.json")
        described = "\n".join(f"{info.base_name} {info.size} {info.mtime_ns}" for info in files)
        name = hashlib.sha256(f"{uri.partition('?')[0]}\n{described}".encode()).hexdigest()[:24]
        return _cached(name, filesystem, [info.path for info in files])
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{uri}: cannot be read: {error}") from error


def _cached(name: str, filesystem: Any, paths: list[str]) -> Path:
    root = Path(os.environ.get("BIGBIRD_CACHE", "~/.cache/bigbird")).expanduser()
    root.mkdir(parents=True, exist_ok=True)
    target = root / name
    with open(root / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_dir():
            half = Path(tempfile.mkdtemp(dir=root))
            try:
                for path in paths:
                    with filesystem.open_input_stream(path) as source, open(half / Path(path).name, "wb") as copy:
                        shutil.copyfileobj(source, copy, _CHUNK_BYTES)
                half.rename(target)
            except BaseException:
                shutil.rmtree(half, ignore_errors=True)
                raise
    return target
