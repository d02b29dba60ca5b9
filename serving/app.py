"""`build(args)`: from typed arguments to a Serve application; and the command `bigbird-serve`.

    serve run serving.app:build                                          # the checkpoints in checkpoints/
    serve run serving.app:build heads=fill-mask=DIR,legal:token-classification=DIR
    serve deploy cluster/serve.yaml
    bigbird-serve --head fill-mask=DIR --head token-classification=DIR

How a head becomes a deployment with its own scaling; what runs inside is in `http` and `replicas`.
"""

# No postponed annotations here: Ray validates the arguments only where `build`'s annotation is the class itself.

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from pydantic import ValidationError
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import RequestRouterConfig
from ray.serve.schema import LoggingConfig

from serving import preflight
from serving.batches.arguments import BatchArguments
from serving.http.deployment import Gateway
from serving.http.edge import haproxy
from serving.http.edge.proxy import SERVE_ENVIRONMENT
from serving.names import GATEWAY
from serving.replicas.generation import GenerationReplica
from serving.replicas.pool import PoolReplica
from serving.replicas.scoring import ScoringReplica
from serving.rpc.service import SERVICER
from serving.settings import (
    GENERATION,
    GatewayArguments,
    HeadArguments,
    HeadDefaults,
    PoolArguments,
    ServeArguments,
)
from serving.stopping import APP_NAME, StopRequested, StopSignals, drain
from serving.versions import code_digest, digest, files_of, with_version

# The queue that counts tokens is in the replica. Serve's own bounds lie well above it, so that requests get there
# to be counted, and are the net below it while a replica starts.
_SERVE_QUEUE_FACTOR = 2

# A new version starts before the old one stops: a head of one replica answers all the while, and one whose new
# checkpoint does not load goes on with the old. Takes room for the new replicas; without it the update waits.
_MAX_SURGE_PERCENT = 100

_ROUTER = RequestRouterConfig.model_validate(
    {"request_router_class": "serving.http.routing.around_refusals:AroundRefusals"}
)

# What Serve changes of a deployment while its replicas run; and what its replicas do not read at all.
_SCALING = {"min_replicas", "max_replicas", "target_ongoing_requests", "upscale_delay_s", "downscale_delay_s"}
_NOT_READ = _SCALING | {"default"}

# That of `--pool`.
_POOL = "pool"

# Requests are held here while heads queue them; beyond twice that the proxy refuses, before memory does.
_GATEWAY_REQUESTS = 1000

# The proxy's own limit, answered with 408: above the gateway's, which answers with an error body.
PROXY_TIMEOUT_S = 90


def build(args: ServeArguments) -> serve.Application:
    """One deployment a head, with the head's name, behind the gateway."""
    heads = args.resolved_heads()
    logging_config = LoggingConfig(encoding=args.log_encoding, enable_access_log=False)
    code = code_digest()
    handles = {
        name: _head(name, arguments, logging_config, code)
        for name, arguments in heads.items()
        if arguments.pool is None
    }
    for name, pool in args.resolved_pools().items():
        handles[name] = _deployment(name, PoolReplica, pool, logging_config, code, num_queues=pool.max_models)
    pooled = {name: _pooled(name, arguments) for name, arguments in heads.items() if arguments.pool is not None}
    gateway = args.gateway
    application = serve.deployment(
        name=GATEWAY,
        max_ongoing_requests=_GATEWAY_REQUESTS,
        max_queued_requests=_GATEWAY_REQUESTS,
        backpressure_config={"status_code": 429, "retry_after_s": 1},
        autoscaling_config={
            "min_replicas": gateway.min_replicas,
            "max_replicas": gateway.max_replicas,
            "target_ongoing_requests": gateway.target_ongoing_requests,
        },
        ray_actor_options={"num_cpus": gateway.num_cpus},
        max_surge_percent=_MAX_SURGE_PERCENT,
        graceful_shutdown_timeout_s=gateway.request_timeout_s,
        logging_config=logging_config,
    )(Gateway).bind(handles, heads, pooled, args.routes, frozenset(args.defaults), gateway, args.batches)
    read = args.model_copy(update={"heads": heads}).model_dump(mode="json", exclude={"gateway": _SCALING})
    return with_version(application, digest(code, [read, pooled]))


def _head(name: str, arguments: HeadArguments, logging_config: LoggingConfig, code: str) -> serve.Application:
    replica = GenerationReplica if arguments.task == GENERATION else ScoringReplica
    return _deployment(name, replica, arguments, logging_config, code, files=files_of(arguments.checkpoint))


def _pooled(name: str, arguments: HeadArguments) -> dict[str, Any]:
    """What requests tell a pool of their head. Its replicas go on when a head changes, which then has another id."""
    read = arguments.model_dump(mode="json", exclude=_NOT_READ)
    return {"name": name, "id": f"{name}@{digest('', [read, files_of(arguments.checkpoint)])[:8]}", "arguments": read}


def _deployment(
    name: str,
    replica: type,
    arguments: HeadDefaults,
    logging_config: LoggingConfig,
    code: str,
    *,
    files: Sequence[Any] = (),
    num_queues: int = 1,
) -> serve.Application:
    """files: what its replicas read beside their arguments. num_queues: of a replica, one a model."""
    accepted = arguments.max_queued_requests * num_queues * _SERVE_QUEUE_FACTOR
    application = serve.deployment(
        name=name,
        max_ongoing_requests=accepted,
        max_queued_requests=accepted,
        autoscaling_config={
            "min_replicas": arguments.min_replicas,
            "max_replicas": arguments.max_replicas,
            "target_ongoing_requests": arguments.target_ongoing_requests,
            "upscale_delay_s": arguments.upscale_delay_s,
            "downscale_delay_s": arguments.downscale_delay_s,
            # Serve warns at 10 s, its own interval of measuring, and below.
            "look_back_period_s": max(11.0, arguments.upscale_delay_s),
        },
        ray_actor_options={"num_cpus": arguments.num_cpus, "num_gpus": arguments.num_gpus},
        max_surge_percent=_MAX_SURGE_PERCENT,
        request_router_config=_ROUTER,
        health_check_period_s=5.0,
        graceful_shutdown_timeout_s=60.0,
        logging_config=logging_config,
    )(replica).bind(name, arguments)
    read = arguments.model_dump(mode="json", exclude=_NOT_READ)
    return with_version(application, digest(code, [read, files, logging_config.encoding]))


def main(argv: Sequence[str] | None = None) -> int:
    """`bigbird-serve`: starts Serve on a new or the running Ray cluster and serves until interrupted."""
    parser = argparse.ArgumentParser(prog="bigbird-serve", description="Serve BigBird heads over HTTP.")
    parser.add_argument(
        "--head", action="append", default=[], metavar="[NAME:]TASK=CHECKPOINT",
        help="a head and its checkpoint, a directory or hub id; may be repeated, a task too with other names; "
        "default: all in checkpoints/",
    )  # fmt: skip
    parser.add_argument(
        "--pool", type=int, default=None, metavar="N",
        help="scoring heads share one process, which keeps the N heads loaded that were asked last",
    )  # fmt: skip
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (default: %(default)s)")
    parser.add_argument(
        "--grpc-port", type=int, default=None, help="serve gRPC too, on every address of this machine: asks for keys"
    )
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "int8", "auto"), default=None,
        help="of the models (default: bfloat16 on GPUs, else float32; auto: bfloat16 where it is faster)",
    )  # fmt: skip
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: %(default)s)")
    parser.add_argument("--num-cpus", type=float, default=None, help="CPUs a replica reserves")
    parser.add_argument(
        "--api-keys-file", default=None,
        help="file with one accepted key a line, behind it its limits: requests_per_s=N tokens_per_min=N",
    )  # fmt: skip
    parser.add_argument(
        "--open-without-keys", action="store_true", help="listen beyond this machine without asking for a key"
    )
    parser.add_argument(
        "--batches", default=None, metavar="DIR",
        help="serve /v1/files and /v1/batches, with their files here: a directory or URI that every node sees",
    )  # fmt: skip
    parser.add_argument(
        "--ingress", choices=("serve", "haproxy"), default="serve",
        help="what clients connect to: Serve's proxy, or HAProxy, which costs less a request (default: %(default)s)",
    )  # fmt: skip
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="bigbird-", dir="/tmp") as folder:
        return _run(options, Path(folder))


def _run(options: argparse.Namespace, folder: Path) -> int:
    """folder: for HAProxy's files."""
    try:
        arguments = _arguments(options)
        environment = _environment(options, folder)
        preflight.check(arguments, options.host, options.port, options.grpc_port)
    except ValueError as error:
        print(f"bigbird-serve: {_one_line(error)}", file=sys.stderr)
        return 2
    stop_signals = StopSignals()
    try:
        _serve(arguments, options, environment, stop_signals)
    except (RuntimeError, TimeoutError, RayError) as error:
        print(f"bigbird-serve: {' '.join(str(error).split())}", file=sys.stderr)
        serve.shutdown()  # type: ignore[no-untyped-call]
        return 1
    except (StopRequested, SystemExit):
        print("finishing what was accepted; once more ends at once", flush=True)
        stop_signals.install()
        drain()
    return 0


def _environment(options: argparse.Namespace, folder: Path) -> dict[str, str]:
    if options.ingress == "serve":
        return SERVE_ENVIRONMENT
    if options.grpc_port is not None:
        raise ValueError("gRPC is not served through HAProxy: leave out --grpc-port or --ingress haproxy")
    return {**SERVE_ENVIRONMENT, **haproxy.environment(folder, preflight.free_port())}


def _serve(
    arguments: ServeArguments, options: argparse.Namespace, environment: dict[str, str], stop_signals: StopSignals
) -> None:
    """Starts everything and waits. Raises StopRequested at SIGINT or SIGTERM, and where nothing starts RuntimeError,
    TimeoutError or RayError."""
    stop_signals.install()
    serve.start(
        http_options={"host": options.host, "port": options.port, "request_timeout_s": PROXY_TIMEOUT_S},
        grpc_options=grpc_options(options.grpc_port),
        controller_options={"runtime_env": {"env_vars": environment}},
    )
    stop_signals.install()  # Ray has put handlers of its own in their place, which end the process at once
    if options.num_cpus is None:
        arguments = _affordable(arguments, ray.cluster_resources().get("CPU", 1.0))  # type: ignore[no-untyped-call]
    serve.run(build(arguments), name=APP_NAME)
    print(f"serving {', '.join(arguments.heads)} on http://{options.host}:{options.port}", flush=True)
    stop_signals.wait()


def grpc_options(port: int | None) -> dict[str, Any] | None:
    """What `serve.start` takes to serve gRPC too."""
    if port is None:
        return None
    return {"port": port, "grpc_servicer_functions": [SERVICER], "request_timeout_s": PROXY_TIMEOUT_S}


def _arguments(options: argparse.Namespace) -> ServeArguments:
    given = ServeArguments.model_validate({"heads": ",".join(options.head)} if options.head else {})
    changes: dict[str, Any] = {"device": options.device, "dtype": options.dtype}
    if options.device != "cpu":
        changes["num_gpus"] = 1.0
    if options.num_cpus is not None:
        changes["num_cpus"] = options.num_cpus
    heads, pools = {}, {}
    for name, head in given.resolved_heads().items():
        if options.pool is None or head.task == GENERATION:
            heads[name] = HeadArguments.model_validate({**head.model_dump(), **changes})
        else:
            pools = {_POOL: PoolArguments.model_validate({"max_models": options.pool, **changes})}
            heads[name] = HeadArguments(task=head.task, checkpoint=head.checkpoint, pool=_POOL)
    if options.pool is not None and not pools:
        raise ValueError(f"pool is {options.pool}, and {GENERATION}, the one head, is not for pools")
    batches = None if options.batches is None else BatchArguments(storage=options.batches)
    return ServeArguments(heads=heads, pools=pools, gateway=_gateway(options), batches=batches)


def _gateway(options: argparse.Namespace) -> GatewayArguments:
    return GatewayArguments(api_keys_file=options.api_keys_file, open_without_keys=options.open_without_keys)


def _one_line(error: ValueError) -> str:
    """What is wrong, without pydantic's page around it."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}".removeprefix(": ").replace("Value error, ", "")


def _affordable(arguments: ServeArguments, num_cpus: float) -> ServeArguments:
    """With the machine's CPUs shared out where there are fewer than replicas want: one that waits never starts."""
    alone = {name: head for name, head in arguments.heads.items() if head.pool is None}
    # An actor of a batch takes as much as a replica of its head.
    num_shares = len(alone) + len(arguments.pools) + (arguments.batches is not None)
    share = max(0.01, (num_cpus - arguments.gateway.num_cpus) / num_shares)

    def at_most(given: dict[str, Any]) -> dict[str, Any]:
        return {name: one.model_copy(update={"num_cpus": min(one.num_cpus, share)}) for name, one in given.items()}

    return arguments.model_copy(
        update={"heads": {**arguments.heads, **at_most(alone)}, "pools": at_most(arguments.pools)}
    )


if __name__ == "__main__":
    sys.exit(main())
