"""The files of `cluster/`, read: Kubernetes documents, their pods and containers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
KUBERNETES = CLUSTER / "kubernetes"
Document = dict[str, Any]


def manifest(name: str) -> list[Document]:
    return [document for document in yaml.safe_load_all((KUBERNETES / "base" / name).read_text()) if document]


def only(name: str) -> Document:
    (document,) = manifest(name)
    return document


BASE_FILES = [file.name for file in sorted((KUBERNETES / "base").glob("*.yaml")) if file.name != "kustomization.yaml"]
BASE = [document for name in BASE_FILES for document in manifest(name)]


def walk(value: Any) -> Iterator[Any]:
    yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from walk(item)


def pod_specs(document: Document) -> list[Document]:
    return [value["template"]["spec"] for value in walk(document) if isinstance(value, dict) and "template" in value]


def containers(document: Document) -> list[Document]:
    return [container for pod in pod_specs(document) for container in pod["containers"]]
