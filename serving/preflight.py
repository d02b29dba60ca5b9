"""What `bigbird-serve` refuses before Ray starts, in one line each: a cluster would take a minute and a page of log."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from serving.batches.storage import Storage
from serving.http.edge.auth import ApiKeys, check_is_closed
from serving.rpc.service import EVERYWHERE
from serving.settings import GENERATION, GatewayArguments, HeadArguments, ServeArguments


def check(arguments: ServeArguments, host: str, port: int, grpc_port: int | None = None) -> None:
    """Raises ValueError, whose message is one line, for what cannot be served. The heads are resolved ones."""
    _check_keys(arguments.gateway, host)
    _check_address(host, port)
    if grpc_port is not None:
        if grpc_port == port:
            raise ValueError(f"port and grpc_port are both {port}; each needs one of its own")
        _check_keys(arguments.gateway, EVERYWHERE)
        _check_address(EVERYWHERE, grpc_port)
    if arguments.batches is not None:
        _check_storage(arguments.batches.storage)
    if os.environ.get("RAY_ADDRESS"):
        return  # what a cluster has, it has elsewhere
    heads = arguments.resolved_heads()
    _check_devices(heads)
    for name, head in heads.items():
        _check_checkpoint(name, head)


def _check_keys(gateway: GatewayArguments, host: str) -> None:
    ApiKeys.load(file=gateway.api_keys_file, environment_variable=gateway.api_keys_variable)
    check_is_closed(gateway, host)


def _check_storage(root: str) -> None:
    try:
        storage = Storage(root)
        storage.write("probe.json", {})
        storage.delete("probe.json")
    except (OSError, ValueError) as error:  # pyarrow's own errors are either
        raise ValueError(f"batches: {root} cannot be written: {' '.join(str(error).split())}") from None


def _check_address(host: str, port: int) -> None:
    """Serve's proxy shares a port that is taken (SO_REUSEPORT): clients would get answers of both servers in turn."""
    if not 1 <= port <= 65535:
        raise ValueError(f"port is {port}, expected 1 to 65535")
    try:
        (family, *_, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise ValueError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None


def free_port() -> int:
    """A port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _check_devices(heads: dict[str, HeadArguments]) -> None:
    wanted = max((head.num_gpus for head in heads.values()), default=0.0)
    devices = {head.device for head in heads.values() if head.device.startswith("cuda")}
    if not wanted and not devices:
        return
    import torch

    found = torch.cuda.device_count()
    if devices and not found:
        raise ValueError(f"device is {min(devices)}, and torch finds no GPU here")
    if wanted > found:
        raise ValueError(f"num_gpus is {wanted:g}, and this machine has {found}")


def _check_checkpoint(name: str, head: HeadArguments) -> None:
    # Here, because torch costs seconds: what is wrong above is said at once.
    from safetensors import SafetensorError, safe_open

    from bigbird.config import BigBirdConfig
    from bigbird.errors import BigBirdError, CheckpointError
    from bigbird.predictors import load_predictor

    try:
        load_predictor(head.task, head.checkpoint, weights=False)
        if head.task == GENERATION and not BigBirdConfig.from_pretrained(head.checkpoint).is_decoder:
            raise CheckpointError(f"{head.checkpoint}: {GENERATION} needs a decoder, and is_decoder is false")
        directory = Path(head.checkpoint)
        if directory.is_dir():
            weights = [*directory.glob("model*.safetensors"), *directory.glob("pytorch_model*.bin")]
            if not weights:
                raise CheckpointError(f"{directory}: found no weights (model.safetensors or pytorch_model.bin)")
            for file in weights:
                if file.suffix == ".safetensors":
                    with safe_open(file, framework="pt"):
                        pass
    except (BigBirdError, OSError, SafetensorError) as error:
        raise ValueError(f"head {name}: {' '.join(str(error).split())}") from None
