"""What makes a deployment another one: a head whose version stays keeps its replicas, whatever happens to the others.

Serve gives all deployments of a configuration one version, a digest of every argument, and starts all replicas again
when any argument changes; `serve.run` does so always. Here a deployment's version is a digest of what its own replicas
read: this code, its own arguments, the files of its checkpoint.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve._private.config import DeploymentConfig

_ROOT = Path(__file__).parent.parent
_PACKAGES = ("bigbird", "serving")


class _OwnVersion(DeploymentConfig):
    """Serve's configuration of a deployment, whose version is kept once it is set."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "version" or self.version is None:
            super().__setattr__(name, value)


def with_version(application: serve.Application, version: str) -> serve.Application:
    """The deployment with this version. Serve has no public way to say it, and 2.60 sets its own on the same field."""
    config = application._bound_deployment._deployment_config
    config.version = version
    config.__class__ = _OwnVersion
    return application


def digest(code: str, arguments: Any) -> str:
    """The version of a deployment with this code that reads these arguments, which are plain types."""
    return hashlib.sha256(f"{code}{json.dumps(arguments, sort_keys=True)}".encode()).hexdigest()


def code_digest() -> str:
    """Of the source files that replicas run."""
    found = hashlib.sha256()
    for file in sorted(file for package in _PACKAGES for file in (_ROOT / package).rglob("*")):
        if file.suffix in (".py", ".html"):
            found.update(file.read_bytes())
    return found.hexdigest()


def files_of(checkpoint: str) -> list[tuple[str, int, int]]:
    """Name, size and time of every file of a local checkpoint, so that weights written anew are loaded."""
    return sorted(
        (file.name, status.st_size, status.st_mtime_ns)
        for file in Path(checkpoint).glob("*")
        if (status := file.stat()) and file.is_file()
    )
