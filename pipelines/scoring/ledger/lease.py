"""One driver at a time on an output directory.

Whoever writes to an output holds its lease: a record that says who it is, written again every few seconds. A start
that finds one whose process is gone, or that was not renewed for a while, takes it; otherwise it is refused. Times
are those the storage gives its files, so clocks of machines need not agree.

Two starts within one moment may both find no lease. Each looks whether the lease is still its own, the first time
after a second, and the one that lost it stops.
"""

import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from bigbird.errors import InputError
from pipelines.scoring.ledger.records import LEASE_FILE, DamagedRecordError, read_record, write_record
from pipelines.scoring.storage import Place, make_writable, write_whole

RENEW_S = 10.0
STALE_S = 45.0
_FIRST_LOOK_S = 1.0


class Lease:
    """The lease of `output`, held while it is entered. schema: of the output's files. say: takes lines for a person.

    Entering raises InputError while somebody else holds it.
    """

    def __init__(self, output: Place, schema: pa.Schema, say: Callable[[str], None]) -> None:
        self._output, self._schema, self._say = output, schema, say
        self._mine = {"id": uuid.uuid4().hex, "host": _host(), "name": socket.gethostname(), **_process(os.getpid())}
        self._lost: str | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self) -> "Lease":
        self._created = make_writable(self._output)
        self._wait_for_the_holder()
        self._write()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        self._stop.set()
        self._thread.join()
        self.check()  # rather than the KeyboardInterrupt by which the thread said so
        try:
            self._give_back(failed=kind is not None)
        except OSError:
            if kind is None:
                raise  # else what made the start fail says more than this does, as where somebody removed the output

    def _give_back(self, failed: bool) -> None:
        filesystem = self._output.filesystem
        filesystem.delete_file(self._output.child(LEASE_FILE).path)
        if failed and self._created and not filesystem.get_file_info(pafs.FileSelector(self._output.path)):
            filesystem.delete_dir(self._output.path)  # of a start that was refused

    def check(self) -> None:
        """Raises InputError when another driver has taken the lease."""
        if self._lost is not None:
            raise InputError(f"output {self._output.name!r} was taken over by {self._lost}; this start stops")

    def _write(self) -> None:
        write_record(self._output, LEASE_FILE, self._mine, self._schema)

    def _wait_for_the_holder(self) -> None:
        """Until there is no holder, or none that lives. Raises InputError for one that does."""
        held = read_record(self._output, LEASE_FILE)
        if held is None:
            return
        if held["host"] == self._mine["host"]:
            if _lives(held):
                raise InputError(f"output {self._output.name!r} is being written by {_name(held)}")
            return
        age, deadline, renewed = self._age(), time.monotonic() + STALE_S, self._renewed()
        if age < STALE_S:
            self._say(f"waiting for {_name(held)}, who wrote to the output {age:.0f} s ago")
        while self._age() < STALE_S and time.monotonic() < deadline:
            time.sleep(1.0)
            if self._renewed() not in (renewed, None):
                raise InputError(f"output {self._output.name!r} is being written by {_name(held)}")

    def _renewed(self) -> int | None:
        info = self._output.filesystem.get_file_info(self._output.child(LEASE_FILE).path)
        return info.mtime_ns if info.type == pafs.FileType.File else None

    def _age(self) -> float:
        """Seconds since the lease was renewed, by the storage's clock."""
        probe = self._output.child(f".probe-{uuid.uuid4().hex[:8]}")
        write_whole(probe, b"")
        now = self._output.filesystem.get_file_info(probe.path).mtime_ns
        self._output.filesystem.delete_file(probe.path)
        renewed = self._renewed()
        return STALE_S if renewed is None else (now - renewed) / 1e9

    def _renew(self) -> None:
        pause = _FIRST_LOOK_S
        while not self._stop.wait(pause):
            pause = RENEW_S
            try:
                held = read_record(self._output, LEASE_FILE)
                if held is not None and held["id"] != self._mine["id"]:
                    self._lost = _name(held)
                    # A real signal: it ends a wait of the main thread, as of a job for its actors.
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                    return
                self._write()
            except (OSError, DamagedRecordError):
                pause = _FIRST_LOOK_S  # what is written to the output fails as well, and says why


def holder(output: Place) -> str | None:
    """Who writes to an output now, or did on another machine and may still; None where nobody does. Only looks."""
    held = read_record(output, LEASE_FILE)
    if held is None or (held["host"] == _host() and not _lives(held)):
        return None
    return f"{_name(held)} writes to the output" + ("" if held["host"] == _host() else ", or was killed")


def _lives(held: dict[str, Any]) -> bool:
    """Whether the process of a lease of this machine runs."""
    return _process(held["pid"]) == {key: held[key] for key in ("pid", "started")}


def _name(held: dict[str, Any]) -> str:
    return f"process {held['pid']} on {held['name']}"


def _host() -> str:
    """What distinguishes this machine, and this container on it, from others of the same name."""
    known = [socket.gethostname()]
    if Path("/proc/self/ns/pid").exists():
        known += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(known)


def _process(pid: int) -> dict[str, Any]:
    """A process and when it started, None where it does not run: ids are given again."""
    try:
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        started = None
    if started is None and not Path("/proc/self/stat").exists():
        try:
            os.kill(pid, 0)
            started = ""
        except ProcessLookupError:
            started = None
    return {"pid": pid, "started": started}
