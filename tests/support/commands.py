"""Commands that tests run as a person types them, at the root of the repository."""

import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Far more than any command needs, also on a machine that is busy with something else.
TIMEOUT_S = 240.0
SHOWN_CHARS = 6000


def run(command: Sequence[str], *, env: Mapping[str, str] | None = None, timeout_s: float = TIMEOUT_S) -> str:
    """What `command` said, on both streams; the test fails with it where the command fails or does not end in time.

    A command that does not end is killed with all that it started.
    """
    # Into a file: a pipe would stay open in daemons that a command leaves behind.
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=env,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            ended = f"ended with {process.wait(timeout_s)}"
        except subprocess.TimeoutExpired:
            ended = f"did not end within {timeout_s:g} s"
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.seek(0)
        said = log.read().decode(errors="replace")
    if process.returncode:
        pytest.fail(f"{shlex.join(map(str, command))}\n{ended}; the end of what it said:\n{said[-SHOWN_CHARS:]}")
    return said
