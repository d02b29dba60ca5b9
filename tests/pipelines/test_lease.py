"""ledger.lease: one driver at a time on an output, whatever became of the last one."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest

from bigbird.errors import InputError
from pipelines.scoring.ledger import lease
from pipelines.scoring.ledger.lease import Lease, holder
from pipelines.scoring.ledger.records import LEASE_FILE, read_record, write_record
from pipelines.scoring.storage import locate

SCHEMA = pa.schema([("id", pa.int64())])


@pytest.fixture
def output(tmp_path):
    return locate(str(tmp_path / "out"))


def take(output, said=None):
    return Lease(output, SCHEMA, (said if said is not None else []).append)


def test_a_second_driver_is_refused_by_name_until_the_first_is_done(output):
    second = take(output)
    with take(output), pytest.raises(InputError, match=rf"is being written by process {os.getpid()} on "):
        second.__enter__()
    with take(output):
        assert holder(output) == f"process {os.getpid()} on {socket.gethostname()} writes to the output"
    assert read_record(output, LEASE_FILE) is holder(output) is None


def test_the_lease_of_a_killed_process_is_taken_at_once(output):
    code = """
import os, sys, pyarrow as pa
from pipelines.scoring.ledger.lease import Lease
from pipelines.scoring.storage import locate
Lease(locate(sys.argv[1]), pa.schema([("id", pa.int64())]), print).__enter__()
os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", code, output.path]).returncode == -9
    assert read_record(output, LEASE_FILE) is not None
    assert holder(output) is None
    said = []
    with take(output, said):
        pass
    assert said == []


def test_the_lease_of_another_machine_is_waited_for_and_taken_when_nobody_renews_it(output, monkeypatch):
    monkeypatch.setattr(lease, "STALE_S", 2.5)
    with take(output):
        elsewhere = {**read_record(output, LEASE_FILE), "host": "other", "name": "other", "pid": 7}
    write_record(output, LEASE_FILE, elsewhere, SCHEMA)
    assert holder(output) == "process 7 on other writes to the output, or was killed"
    said = []
    with take(output, said):
        pass
    assert "waiting for process 7 on other" in said[0]


def test_the_lease_of_another_machine_that_is_renewed_is_refused(output, monkeypatch):
    monkeypatch.setattr(lease, "RENEW_S", 0.5)
    with take(output) as held:
        held._mine["host"] = "other"
        held._write()
        second = take(output)
        with pytest.raises(InputError, match="is being written by process"):
            second.__enter__()


def test_a_start_that_fails_says_why_and_not_that_its_lease_is_gone_and_leaves_no_empty_folder(output):
    def fails(first):
        with take(output):
            first(output.path)
            raise ArithmeticError

    for first in (shutil.rmtree, os.listdir):
        with pytest.raises(ArithmeticError):
            fails(first)
        assert not os.path.exists(output.path)
    with take(output):
        (Path(output.path) / "part-0.parquet").touch()
    with pytest.raises(ArithmeticError):
        fails(os.listdir)
    assert os.listdir(output.path) == ["part-0.parquet"]


def test_who_loses_the_lease_stops(output):
    # A worker of xdist ignores the signal that a driver ends by.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    other = {"id": "x", "host": "other", "name": "other", "pid": 7, "started": "1"}

    def lose():
        with take(output):
            write_record(output, LEASE_FILE, other, SCHEMA)
            time.sleep(60)
            ends.append("slept")

    ends = []
    try:
        with pytest.raises(InputError, match="was taken over by process 7 on other"):
            lose()
    finally:
        signal.signal(signal.SIGINT, before)
    assert not ends, "it was waked"
    assert read_record(output, LEASE_FILE) == other, "it is not ours to delete"
