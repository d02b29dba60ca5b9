"""Memory of the processes of a scoring job."""

import os
from pathlib import Path


def peak_rss_mib(pid: int) -> int:
    """Peak resident memory of a process, MiB."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024 if "VmHWM:" in status else 0


def actor_pids() -> list[int]:
    """Processes of scoring actors below this one; a machine may have others."""
    parents, actors = {}, []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if b"ScoreUnit" in (folder / "cmdline").read_bytes():
                actors.append(int(folder.name))
        except OSError:
            continue

    def ours(pid: int) -> bool:
        while pid > 1 and pid != os.getpid():
            pid = parents.get(pid, 0)
        return pid == os.getpid()

    return [pid for pid in actors if ours(pid)]
