"""Batches of one owner, as /v1/batches shows them: what is kept of each, by whom it is written, how it is told.

    open/ID.OWNER                   by the gateway, before all else; deleted once the batch has ended
    OWNER/batches/ID/request.json   by the gateway, once: what is asked for, and which models answer
    OWNER/batches/ID/cancel.json    by the gateway, once
    OWNER/batches/ID/state.json     by the batch's job while it runs; by the gateway where it cannot run
    OWNER/batches/ID/failure.json   by a job that failed: how often, and why the last time
    OWNER/batches/ID/work/          the job's own

Whatever dies, nothing else need be known to go on. It knows neither HTTP nor Ray.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

from serving.batches.files import new_id, page
from serving.batches.storage import Storage
from serving.errors import ServingError

ENDED = frozenset({"completed", "failed", "expired", "cancelled"})

_OPEN = "open"
_ID = re.compile(r"batch_[0-9a-f]{24}")
_TIMES = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
# A request that the proxy sends again is the same batch.
_SENT_AGAIN_NS = 600 * 10**9


class Batch:
    """One batch and its records."""

    def __init__(self, storage: Storage, owner: str, batch_id: str) -> None:
        self.storage = storage
        self.owner = owner
        self.id = batch_id
        self.folder = f"{owner}/batches/{batch_id}"

    def read(self, name: str) -> dict[str, Any] | None:
        """The record NAME.json."""
        return self.storage.read(f"{self.folder}/{name}.json")

    def write(self, name: str, record: dict[str, Any]) -> None:
        self.storage.write(f"{self.folder}/{name}.json", record)

    @property
    def request(self) -> dict[str, Any]:
        """What is asked for, of a batch that there is."""
        found = self.read("request")
        assert found is not None
        return found

    @property
    def ended(self) -> bool:
        return (self.read("state") or {}).get("status") in ENDED

    def open(self) -> None:
        """Makes it one of `open_batches`."""
        self.storage.write(self._mark, {})

    def close(self) -> None:
        """Once it has ended: nobody need look after it."""
        self.storage.delete(self._mark)

    @property
    def _mark(self) -> str:
        return f"{_OPEN}/{self.id}.{self.owner}"

    def to_state(self, status: str, **changes: Any) -> dict[str, Any]:
        """Writes state.json with a status, which begins now where it was not there before, and other changes."""
        state = {f"{status}_at": int(time.time()), **(self.read("state") or {}), "status": status, **changes}
        self.write("state", state)
        return state

    def told(self) -> dict[str, Any]:
        """OpenAI's batch object."""
        request, state, cancel = self.request, self.read("state") or {}, self.read("cancel")
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


def open_batches(storage: Storage) -> Iterator[Batch]:
    """Of all owners, those that are not known to have ended, the oldest first."""
    for mark in storage.names(_OPEN):
        batch_id, _, owner = mark.partition(".")
        batch = Batch(storage, owner, batch_id)
        if batch.read("request") is not None:  # else it is being written
            yield batch


class Batches:
    """The batches of `owner`."""

    def __init__(self, storage: Storage, owner: str) -> None:
        self._storage = storage
        self._owner = owner
        self._folder = f"{owner}/batches"

    def add(self, request: dict[str, Any], request_id: str) -> Batch:
        """A new batch, or, of a request that is sent again, the one that it made."""
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
        if not _ID.fullmatch(batch_id) or batch.read("request") is None:
            raise ServingError("unknown_object", f"no batch {batch_id[:100]!r}", param="id")
        return batch

    def list(self, after: str | None) -> Iterator[Batch]:
        """The newest first."""
        for batch_id in page(self._storage.names(self._folder), after, newest_first=True):
            batch = Batch(self._storage, self._owner, batch_id)
            if batch.read("request") is not None:  # else it is being written
                yield batch


def _nanoseconds(batch_id: str) -> int:
    return int(batch_id.removeprefix("batch_")[:16], 16)
