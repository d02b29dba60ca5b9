"""A folder that every node sees, on a disk or in an object store: JSON records, and contents that are streamed.

What is written appears whole or not at all. Nothing is locked: every record has one writer at a time. It knows nothing
of files, batches or clients.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pyarrow.fs as pafs

_TEMPORARY = ".tmp"


class Storage:
    """Paths have `/` between their parts, relative to `root`: an absolute directory or a URI (`s3://bucket/prefix`)."""

    def __init__(self, root: str) -> None:
        self.root = root
        on_disk = (pafs.LocalFileSystem(), root)
        self._filesystem, base = pafs.FileSystem.from_uri(root) if "://" in root else on_disk
        self._base = base.rstrip("/")
        self._is_local = self._filesystem.type_name == "local"

    def location(self, path: str) -> str:
        """The absolute path or URI of `path`, for programs that do not know this storage."""
        root, mark, query = self.root.partition("?") if "://" in self.root else (self.root, "", "")
        return f"{root.rstrip('/')}/{path}{mark}{query}"

    def read(self, path: str) -> dict[str, Any] | None:
        """A record, None where there is none."""
        try:
            with self.open(path) as stream:
                record: dict[str, Any] = json.loads(stream.read())
                return record
        except FileNotFoundError:
            return None

    def write(self, path: str, record: dict[str, Any]) -> None:
        with self.writing(path) as stream:
            stream.write(json.dumps(record).encode())

    def open(self, path: str) -> Any:
        """The content as a binary stream. Raises FileNotFoundError."""
        return self._filesystem.open_input_stream(self._full(path), compression=None)

    @contextmanager
    def writing(self, path: str) -> Iterator[Any]:
        """A binary stream; what is written is there once it is left without an exception."""
        target = temporary = self._full(path)
        if self._is_local:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            temporary = f"{target}.{uuid.uuid4().hex[:8]}{_TEMPORARY}"
        stream = self._filesystem.open_output_stream(temporary)
        try:
            yield stream
        except BaseException:
            stream.close()  # by which an object of a store comes to be, for a moment
            self._filesystem.delete_file(temporary)
            raise
        stream.close()
        if self._is_local:
            os.replace(temporary, target)

    def size(self, path: str) -> int | None:
        """Bytes of a content, None where there is none."""
        size: int | None = self._filesystem.get_file_info(self._full(path)).size
        return size

    def names(self, folder: str) -> list[str]:
        """What is directly in a folder, sorted; nothing where there is no such folder."""
        found = self._filesystem.get_file_info(pafs.FileSelector(self._full(folder), allow_not_found=True))
        return sorted(info.base_name for info in found if not info.base_name.endswith(_TEMPORARY))

    def delete(self, path: str) -> None:
        """Deletes a record or content, where there is one."""
        with suppress(FileNotFoundError):
            self._filesystem.delete_file(self._full(path))

    def delete_folder(self, folder: str) -> None:
        """Deletes a folder with all that is in it, where there is one."""
        with suppress(FileNotFoundError):
            self._filesystem.delete_dir(self._full(folder))

    def _full(self, path: str) -> str:
        return f"{self._base}/{path}".rstrip("/")
