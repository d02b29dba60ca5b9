"""One place for versions: constraints.txt. Image, manifests, scripts and pages follow it or this fails."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
FILES = [
    path
    for path in sorted(CLUSTER.rglob("*"))
    if path.is_file() and (path.suffix in {".yaml", ".md", ".sh"} or path.name == "Dockerfile")
]


def found(pattern: str) -> list[tuple[str, str]]:
    """(file, version) for every match in `cluster/`."""
    return [
        (str(path.relative_to(ROOT)), match[1]) for path in FILES for match in re.finditer(pattern, path.read_text())
    ]


def test_every_manifest_names_the_pinned_ray():
    named = found(r'rayVersion: "?([\d.]+)"?')
    assert len(named) == 3
    assert {version for _, version in named} == {PINS["ray"]}, named


def test_every_image_is_of_this_version_of_the_project():
    named = [*found(r"bigbird-on-ray:(\d[\w.]*)-(?:cpu|cuda)"), *found(r"newTag: (\d[\w.]*)-(?:cpu|cuda)")]
    assert len(named) >= 10
    assert {version for _, version in named} == {PROJECT["version"]}, named


def test_the_image_has_a_python_that_the_project_supports_and_the_tests_ran_on():
    (version,) = re.findall(
        r"^ARG BASE=python:(\d+\.\d+)\.\d+-slim", (CLUSTER / "Dockerfile").read_text(), re.MULTILINE
    )
    lowest = re.search(r">=(\d+\.\d+)", PROJECT["requires-python"])
    assert lowest
    assert version == lowest[1]


@pytest.mark.parametrize("name", ["ray", "torch", "pyarrow", "transformers"])
def test_no_file_of_the_cluster_pins_a_package_by_itself(name):
    assert found(rf"\b{name}(?:\[[\w,]+\])?(?:==|>=|~=)([\d.]+)") == []


def test_the_image_installs_from_the_constraints_only():
    dockerfile = (CLUSTER / "Dockerfile").read_text().replace("\\\n", " ")
    for command in re.findall(r"pip install ([^&;\n]*)", dockerfile):
        assert "-c constraints.txt" in command or "constraints.txt)" in command or command.split()[0] == "--no-deps"
    launched = found(r"pip install (.*)")
    assert len(launched) >= 4
    for file, command in launched:
        assert "constraints.txt" in command or "--no-deps" in command or file == "cluster/Dockerfile", (file, command)


def test_the_image_has_what_the_jobs_and_the_service_need():
    dockerfile = (CLUSTER / "Dockerfile").read_text()
    installed = set(re.findall(r'e\["(\w+)"\]', dockerfile))
    assert installed == {"ray", "train", "hub"}
    assert installed <= set(PROJECT["optional-dependencies"])


def test_the_readme_names_the_operator_that_the_manifests_are_written_for():
    readme = (CLUSTER / "README.md").read_text()
    assert re.search(r"kuberay-operator --version 1\.7\.\d+ ", readme)
