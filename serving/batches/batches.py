"""Batches of one owner, as /v1/batches shows them, and the records that the storage has of each.

    record                             written by
    open/ID.OWNER                      the gateway, before all else; deleted once the batch has ended
    OWNER/batches/ID/request.json      the gateway, once: the request, and the models and limits of the server
    OWNER/batches/ID/cancel.json       the gateway, once: the client cancelled it
    OWNER/batches/ID/failure.json      a gateway, once: it is given up, and why
    OWNER/batches/ID/tries.json        a gateway: how many jobs had ended when one last got further
    OWNER/batches/ID/last_error.json   the batch's job: what stopped it
    OWNER/batches/ID/state.json        the batch's job; a gateway, where the batch ends before its file is read
    OWNER/batches/ID/work/             the batch's job: what it needs to go on

A gateway or job that starts anew reads these records and needs nothing else. This knows neither HTTP nor Ray.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from functools import cached_property
from hashlib import sha256
from typing import Any

from serving.batches.files import new_id, page
from serving.batches.storage import Storage
from serving.errors import ServingError

ENDED = frozenset({"completed", "failed", "expired", "cancelled"})

_OPEN = "open"
_ID = re.compile(r"batch_[0-9a-f]{24}")
_TIMES = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
# The proxy sends a request again whose gateway died: within this time, that makes no second batch.
_SENT_AGAIN_NS = 600 * 10**9


class Batch:
    """One batch and its records."""

    def __init__(self, storage: Storage, owner: str, batch_id: str) -> None:
        self.storage = storage
        self.owner = owner
        self.id = batch_id
        self.folder = f"{owner}/batches/{batch_id}"
        self.work = f"{self.folder}/work"

    def read(self, name: str) -> dict[str, Any] | None:
        """The record NAME.json."""
        return self.storage.read(f"{self.folder}/{name}.json")

    def write(self, name: str, record: dict[str, Any]) -> None:
        self.storage.write(f"{self.folder}/{name}.json", record)

    def delete(self, name: str) -> None:
        self.storage.delete(f"{self.folder}/{name}.json")

    @cached_property
    def request(self) -> dict[str, Any]:
        """request.json of a batch that exists."""
        found = self.read("request")
        assert found is not None
        return found

    @property
    def exists(self) -> bool:
        """False also while it is being created."""
        return self.storage.size(f"{self.folder}/request.json") is not None

    @property
    def state(self) -> dict[str, Any]:
        """state.json; empty before the file is read."""
        return self.read("state") or {}

    @property
    def ended(self) -> bool:
        return self.state.get("status") in ENDED

    def must_end(self) -> str | None:
        """The status that the batch has to end with: failed, cancelled or expired. None where it may go on."""
        if self.read("failure") is not None:
            return "failed"
        if self.read("cancel") is not None:
            return "cancelled"
        return "expired" if time.time() > self.request["expires_at"] else None

    def open(self) -> None:
        """Makes it one of `open_batches`."""
        self.storage.write(self._mark, {})

    def close(self) -> None:
        """The opposite, once it has ended."""
        self.storage.delete_folder(self.work)
        self.storage.delete(self._mark)

    @property
    def _mark(self) -> str:
        return f"{_OPEN}/{self.id}.{self.owner}"

    def to_state(self, status: str, **changes: Any) -> None:
        """Writes state.json with a new status and other changes. A status keeps the time of its first beginning."""
        self.write("state", {f"{status}_at": int(time.time()), **self.state, "status": status, **changes})

    def end(self, status: str, **changes: Any) -> None:
        """The last state. Of a batch that was given up, its `errors` say why."""
        if (failure := self.read("failure")) is not None:
            changes.setdefault("errors", errors(failure))
        self.to_state(status, **changes)
        self.storage.delete_folder(self.work)

    def end_unread(self, status: str) -> None:
        """Ends a batch that has to end before its file is read: it has no output file and no error file."""
        message = f"{status} before the file was read: no request of it was answered"
        self.end(status, **({} if status == "failed" else {"errors": errors(error(f"batch_{status}", message))}))

    def as_openai(self) -> dict[str, Any]:
        """OpenAI's batch object."""
        request, state, cancel = self.request, self.state, self.read("cancel")
        status = state.get("status", "validating")
        if cancel is not None and status not in ENDED:
            status = "cancelling"
        shown = {
            "id": self.id,
            "object": "batch",
            "status": status,
            **{name: request[name] for name in ("endpoint", "input_file_id", "completion_window", "metadata")},
            **{name: request[name] for name in ("created_at", "expires_at")},
            **{f"{name}_at": state.get(f"{name}_at") for name in _TIMES},
            **{name: state.get(name) for name in ("output_file_id", "error_file_id", "errors")},
            "request_counts": state.get("request_counts", {"total": 0, "completed": 0, "failed": 0}),
        }
        return {**shown, **(cancel or {})}


def error(code: str, message: str, line: int | None = None) -> dict[str, Any]:
    """One of a batch's `errors`. line: of the input file, the first is 1."""
    return {"code": code, "message": message, "param": None, "line": line}


def errors(*found: dict[str, Any]) -> dict[str, Any]:
    """The `errors` of a batch."""
    return {"object": "list", "data": list(found)}


def open_batches(storage: Storage) -> Iterator[Batch]:
    """The batches of all owners that are not known to have ended, the oldest first."""
    for mark in storage.names(_OPEN):
        batch_id, _, owner = mark.partition(".")
        batch = Batch(storage, owner, batch_id)
        if batch.exists:
            yield batch


class Batches:
    """The batches of `owner`."""

    def __init__(self, storage: Storage, owner: str) -> None:
        self._storage = storage
        self._owner = owner
        self._folder = f"{owner}/batches"

    def add(self, request: dict[str, Any], request_id: str) -> Batch:
        """A new batch; for an HTTP request that is sent again, the batch that it made the first time."""
        digest = sha256(f"{request_id} {request['input_file_id']} {request['endpoint']}".encode()).hexdigest()[:8]
        batch_id = f"batch_{new_id(digest)}"
        for known in self._storage.names(self._folder):
            if known.endswith(digest) and _nanoseconds(known) > _nanoseconds(batch_id) - _SENT_AGAIN_NS:
                return Batch(self._storage, self._owner, known)
        batch = Batch(self._storage, self._owner, batch_id)
        batch.open()
        batch.write("request", request)
        return batch

    def get(self, batch_id: str) -> Batch:
        """Raises ServingError `unknown_object`."""
        batch = Batch(self._storage, self._owner, batch_id)
        if not _ID.fullmatch(batch_id) or not batch.exists:
            raise ServingError("unknown_object", f"no batch {batch_id[:100]!r}", param="id")
        return batch

    def list(self, after: str | None) -> Iterator[Batch]:
        """The newest first."""
        for batch_id in page(self._storage.names(self._folder), after, newest_first=True):
            batch = Batch(self._storage, self._owner, batch_id)
            if batch.exists:
                yield batch

    def check_unused(self, file_id: str) -> None:
        """Raises ServingError `invalid_input` for the input file of a batch that has not ended."""
        for batch in open_batches(self._storage):
            if batch.owner == self._owner and batch.request["input_file_id"] == file_id and not batch.ended:
                message = f"id: the input file of {batch.id}, which has not ended; cancel that batch first"
                raise ServingError("invalid_input", message, param="id")


def _nanoseconds(batch_id: str) -> int:
    return int(batch_id.removeprefix("batch_")[:16], 16)
