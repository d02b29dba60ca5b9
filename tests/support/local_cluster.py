"""A real Ray cluster on this machine: `ray start` nodes with token authentication on.

Where the system allows it (root, iproute2), every node gets a network namespace, an address and the default ports
of its own, as on separate machines; elsewhere all nodes share the loopback address and differ in their ports.

Touches nothing of other Ray clusters on the machine: a temporary directory, a token and an address file of its own,
and it stops only the processes that it started, by their ids. Knows nothing of jobs, models or Serve.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
RAY = str(Path(sys.executable).with_name("ray"))
# A raylet gives its agents 30 s to come up, whatever it is told; on a busy machine it takes another try.
START_TIMEOUT_S = 90.0
START_TRIES = 4
# What separate machines need not be told. Ray's workers give way to everything else on a machine, but here they are
# what is waited for. A node is lost when it refuses five looks in a row, a second apart; one that answers late is not
# lost, for all nodes share the cores of this machine. Workers start when something needs them, and not before.
SHARED_MACHINE = {
    "RAY_worker_niceness": "0",
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "240",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "60000",
    "RAY_prestart_worker_first_driver": "0",
}
# What a node listens on; the first three are the head's alone. Workers take a range above them.
HEAD_PORTS = ("port", "dashboard-port", "ray-client-server-port")
USUAL_HEAD_PORTS = {"port": 6379, "dashboard-port": 8265}
NODE_PORTS = (
    "node-manager-port",
    "object-manager-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "runtime-env-agent-port",
    "metrics-export-port",
    "min-worker-port",
)
NUM_WORKER_PORTS = 80
PORTS_A_NODE = 100


@dataclass
class Node:
    """One `ray start --block` and all that it started."""

    name: str
    address: str
    ports: dict[str, int]
    process: subprocess.Popen[bytes]
    log: Path
    namespace: str | None = None


@dataclass
class LocalCluster:
    """Nodes of one cluster; `environment` is what a client needs to be let in, `variables` what nodes have besides."""

    directory: Path
    network: "Network | None"
    variables: dict[str, str]
    nodes: list[Node] = field(default_factory=list)

    @property
    def head(self) -> Node:
        return self.nodes[0]

    @property
    def gcs_address(self) -> str:
        return f"{self.head.address}:{self.head.ports['port']}"

    @property
    def dashboard_url(self) -> str:
        return f"http://{self.head.address}:{self.head.ports['dashboard-port']}"

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a client with the token, and, with `variables`, of every node."""
        inherited = {
            key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "PYTEST_", "PYTHONPATH"))
        }
        return (
            inherited
            | SHARED_MACHINE
            | {
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN_PATH": str(self.directory / "token"),
                "RAY_TMPDIR": str(self.directory),
                "RAY_USAGE_STATS_ENABLED": "0",
                "RAY_API_SERVER_ADDRESS": self.dashboard_url if self.nodes else "",
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            }
        )

    def add_node(self, num_cpus: int) -> Node:
        """Starts a node, the cluster's first one being its head, and waits until it is up."""
        index = len(self.nodes)
        namespace, address = self.network.add_host(index) if self.network else (None, "127.0.0.1")
        log = self.directory / f"node{index}.log"
        for _ in range(START_TRIES):
            # On one shared address the port ranges lie one after another; in namespaces they may be the same.
            ports = port_range(free_base(address)) if namespace is None else port_range(20_000) | USUAL_HEAD_PORTS
            with log.open("wb") as output:
                process = subprocess.Popen(
                    self._command(index, num_cpus, address, namespace, ports),
                    cwd=ROOT,
                    env=self.environment | self.variables,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
            node = Node(f"node{index}", address, ports, process, log, namespace)
            self.nodes.append(node)
            if self._comes_up(node):
                return node
            self.kill(node)
            self.nodes.remove(node)
        raise RuntimeError(f"node{index} did not start in {START_TRIES} tries:\n{log.read_text()[-4000:]}")

    def _command(
        self, index: int, num_cpus: int, address: str, namespace: str | None, ports: dict[str, int]
    ) -> list[str]:
        command = [RAY, "start", "--block", "--disable-usage-stats", f"--node-ip-address={address}"]
        command += [f"--num-cpus={num_cpus}", f"--object-store-memory={80 * 2**20}"]
        command += [f"--{option}={ports[option]}" for option in NODE_PORTS]
        command += [f"--max-worker-port={ports['min-worker-port'] + NUM_WORKER_PORTS - 1}"]
        if index == 0:
            command += ["--head", f"--dashboard-host={address}"]
            command += [f"--{option}={ports[option]}" for option in HEAD_PORTS]
        else:
            command += [f"--address={self.gcs_address}"]
        return ["ip", "netns", "exec", namespace, *command] if namespace else command

    def _comes_up(self, node: Node) -> bool:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and node.process.poll() is None:
            if "Ray runtime started" in node.log.read_text(errors="replace") and self._answers(node):
                return True
            time.sleep(0.2)
        return False

    def _answers(self, node: Node) -> bool:
        port = node.ports["dashboard-port" if node is self.head else "node-manager-port"]
        try:
            socket.create_connection((node.address, port), timeout=1.0).close()
        except OSError:
            return False
        return True

    def kill(self, node: Node) -> None:
        """A machine lost: everything of `node` ends at once, without a word to the cluster."""
        kill_all(lambda: processes_of(node))
        node.process.wait(timeout=60)

    def stop(self) -> None:
        for node in reversed(self.nodes):
            self.kill(node)
        if self.network:
            self.network.remove()


def kill_all(find: Callable[[], list[int]]) -> None:
    """SIGKILL for what `find` finds, three times: what forked between a look and the signal is found by the next."""
    for _ in range(3):
        for pid in find():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def processes_in(namespace: str) -> list[int]:
    listed = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=True)
    return [int(pid) for pid in listed.stdout.split()]


def processes_of(node: Node) -> list[int]:
    """Ids of all that runs on `node`: its namespace's processes, or `ray start` with all its descendants."""
    if node.namespace:
        return processes_in(node.namespace)
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # "pid (name) state parent ...": a name may hold spaces and brackets, so count from its end
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(status.parent.name))
    found = [node.process.pid]
    for pid in found:
        found += children.get(pid, [])
    return found


def port_range(base: int) -> dict[str, int]:
    return {option: base + offset for offset, option in enumerate((*HEAD_PORTS, *NODE_PORTS))}


def free_base(address: str) -> int:
    """The start of `PORTS_A_NODE` ports in a row that nothing listens on, below those the system hands out.

    Each of four test processes beside each other looks in a range of its own.
    """
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 4
    bases = range(20_000 + 3_000 * process, 23_000 + 3_000 * process, PORTS_A_NODE)
    for base in secrets.SystemRandom().sample(bases, len(bases)):
        with ExitStack() as probes:
            try:
                for port in range(base, base + PORTS_A_NODE):
                    probe = probes.enter_context(socket.socket())
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind((address, port))
            except OSError:
                continue
            return base
    raise RuntimeError(f"no {PORTS_A_NODE} free ports in a row on {address}")


class Network:
    """A bridge on this machine and a namespace a host, reachable from here and from nowhere else."""

    def __init__(self) -> None:
        self.name = f"bb{secrets.token_hex(4)}"
        self.subnet = free_subnet()
        self.namespaces: list[str] = []
        ip(f"link add {self.name} type bridge")
        try:
            ip(f"address add {self.subnet}.1/24 dev {self.name}")
            ip(f"link set {self.name} up")
        except BaseException:
            self.remove()
            raise

    def add_host(self, index: int) -> tuple[str, str]:
        """Makes a host; returns its namespace and its address."""
        namespace, link, address = f"{self.name}-{index}", f"{self.name}v{index}", f"{self.subnet}.{index + 2}"
        ip(f"netns add {namespace}")
        self.namespaces.append(namespace)
        ip(f"link add {link} type veth peer name eth0 netns {namespace}")
        ip(f"link set {link} master {self.name} up")
        for command in (f"address add {address}/24 dev eth0", "link set eth0 up", "link set lo up"):
            ip(f"-netns {namespace} {command}")
        return namespace, address

    def remove(self) -> None:
        for namespace in self.namespaces:
            ip(f"netns delete {namespace}")
        ip(f"link delete {self.name}")


def ip(command: str) -> str:
    return subprocess.run(["ip", *command.split()], check=True, capture_output=True, text=True).stdout


def free_subnet() -> str:
    """The first three numbers of addresses that no interface of this machine has."""
    taken = ip("-4 -oneline address")
    subnets = [f"10.213.{number}" for number in range(250)]
    return secrets.choice([subnet for subnet in subnets if f" {subnet}." not in taken])


def network_or_none() -> Network | None:
    """A network of namespaces, or None where this system does not allow one."""
    try:
        return Network()
    except (OSError, subprocess.CalledProcessError):
        return None


@contextmanager
def local_cluster(
    num_cpus: Sequence[int], *, namespaces: bool = True, variables: dict[str, str] | None = None
) -> Iterator[LocalCluster]:
    """A running cluster with one node an entry of `num_cpus`, the head first; gone afterwards."""
    # A short path: Ray's sockets lie below it, and a socket's path has 107 characters at most.
    directory = Path(tempfile.mkdtemp(prefix="bb-", dir="/tmp"))
    (directory / "token").write_text(secrets.token_hex(32))
    (directory / "token").chmod(0o600)
    network = network_or_none() if namespaces else None
    cluster = LocalCluster(directory, network, variables or {})
    try:
        for count in num_cpus:
            cluster.add_node(count)
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(directory, ignore_errors=True)
