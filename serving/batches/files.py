"""Files of one owner, as /v1/files shows them.

    OWNER/files/ID/content
    OWNER/files/ID/meta.json     the file object, written last: clients do not see a file without one

An owner is an API key, or everybody where there are none. It knows neither HTTP nor what is in a file.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO

from serving.batches.storage import Storage
from serving.errors import ServingError

# Begins with the time, so that ids sort as they were made.
_ID = re.compile(r"file-[0-9a-f]{24}")
_CHUNK_BYTES = 2**20


def new_id(digest: str = "") -> str:
    """24 hexadecimal digits: nanoseconds, and `digest` (8 digits) or chance."""
    return f"{time.time_ns():016x}{digest or secrets.token_hex(4)}"


def page(ids: Sequence[str], after: str | None, *, newest_first: bool) -> Iterable[str]:
    """Ids in the order asked for, those behind `after`."""
    if newest_first:
        return (one for one in sorted(ids, reverse=True) if after is None or one < after)
    return (one for one in sorted(ids) if after is None or one > after)


class Files:
    """The files of `owner`. What is not there, and what is another owner's, is a ServingError `unknown_object`."""

    def __init__(self, storage: Storage, owner: str) -> None:
        self._storage = storage
        self._folder = f"{owner}/files"

    def add(self, content: BinaryIO, filename: str, purpose: str) -> dict[str, Any]:
        """A new file with what is read from `content`."""
        file_id = f"file-{new_id()}"
        with self._storage.writing(f"{self._folder}/{file_id}/content") as stream:
            while chunk := content.read(_CHUNK_BYTES):
                stream.write(chunk)
        return self.publish(file_id, filename, purpose)

    def publish(self, file_id: str, filename: str, purpose: str) -> dict[str, Any]:
        """Shows what was written to `content_path` to clients. Gives the file object."""
        record = {
            "id": file_id,
            "object": "file",
            "bytes": self._storage.size(self.content_path(file_id)),
            "created_at": int(time.time()),
            "filename": filename,
            "purpose": purpose,
            "status": "processed",
        }
        self._storage.write(f"{self._folder}/{file_id}/meta.json", record)
        return record

    def content_path(self, file_id: str) -> str:
        return f"{self._folder}/{file_id}/content"

    def get(self, file_id: str) -> dict[str, Any]:
        found = self._storage.read(f"{self._folder}/{file_id}/meta.json") if _ID.fullmatch(file_id) else None
        if found is None:
            raise _no_file(file_id)
        return found

    def list(self, after: str | None, *, newest_first: bool) -> Iterator[dict[str, Any]]:
        ids = self._storage.names(self._folder)
        for file_id in page(ids, after, newest_first=newest_first):
            if (record := self._storage.read(f"{self._folder}/{file_id}/meta.json")) is not None:
                yield record

    def open(self, file_id: str) -> BinaryIO:
        """The content as a stream."""
        try:
            stream: BinaryIO = self._storage.open(self.content_path(file_id))
            return stream
        except FileNotFoundError:
            raise _no_file(file_id) from None

    def delete(self, file_id: str) -> None:
        self.get(file_id)
        self._storage.delete(f"{self._folder}/{file_id}/meta.json")
        self._storage.delete_folder(f"{self._folder}/{file_id}")


def _no_file(file_id: str) -> ServingError:
    return ServingError("unknown_object", f"no file {file_id[:100]!r}", param="id")
