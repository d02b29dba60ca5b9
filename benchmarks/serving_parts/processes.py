"""Processes of the service on this machine, by what the operating system says: to kill them and to weigh them."""

import contextlib
import os
from pathlib import Path


def replica_pids(deployment: str, app: str = "bigbird") -> list[int]:
    """Processes of a deployment's living replicas, among the descendants of this process."""
    return _pids(f"ray::ServeReplica:{app}:{deployment}")


def proxy_pids() -> list[int]:
    """Processes of Serve's HTTP proxies and of HAProxy, among the descendants of this process."""
    return [pid for name in ("ray::ProxyActor", "ray::HAProxyManager", "haproxy") for pid in _pids(name)]


def processor_ms(pids: list[int]) -> float:
    """Processor time these processes have used, in milliseconds."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return 1000 * ticks / os.sysconf("SC_CLK_TCK")


def _pids(wanted: str) -> list[int]:
    found, parents = [], {}
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # "pid (name) state parent ...": a name may hold spaces and brackets, so count from its end
            start, _, rest = (directory / "stat").read_text().rpartition(")")
            parents[int(directory.name)] = int(rest.split()[1])
            title = (directory / "cmdline").read_bytes().decode(errors="replace").strip("\0 ")
            if wanted in (title.partition(".")[0], start.partition("(")[2]):
                found.append(int(directory.name))
    return [pid for pid in found if _descends(pid, parents)]


def resident_mib(pid: int) -> int:
    """Memory a process holds; 0 once it is gone."""
    with contextlib.suppress(OSError):
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") // 2**20
    return 0


def _descends(pid: int, parents: dict[int, int]) -> bool:
    while pid in parents:
        pid = parents[pid]
        if pid == os.getpid():
            return True
    return False
