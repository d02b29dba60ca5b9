"""What is installed and how: one place for pins, packages listed by name, targets that exist."""

import importlib.metadata
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version
from setuptools import find_packages

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONSTRAINTS = [
    Requirement(line)
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line.strip() and not line.startswith("#")
]
PINS = {canonicalize_name(pin.name): pin for pin in CONSTRAINTS}
HABITS = ("demo", "serve", "test", "lint", "types", "bench", "gpu-check", "gpu-bench", "parity", "chaos", "submit")


def declared_requirements() -> list[Requirement]:
    extras = PROJECT["project"]["optional-dependencies"]
    texts = PROJECT["project"]["dependencies"] + [text for group in extras.values() for text in group]
    return [Requirement(text) for text in texts]


def pinned_version(name: str) -> Version:
    (specifier,) = PINS[canonicalize_name(name)].specifier
    return Version(specifier.version)


def test_every_constraint_is_one_exact_version_and_named_once():
    assert len(PINS) == len(CONSTRAINTS)
    for pin in CONSTRAINTS:
        assert [specifier.operator for specifier in pin.specifier] == ["=="], str(pin)
        assert not pinned_version(pin.name).local, f"{pin}: a local version exists in one place only"


@pytest.mark.parametrize("requirement", declared_requirements(), ids=str)
def test_every_declared_requirement_is_pinned_within_its_range(requirement):
    assert requirement.specifier.contains(pinned_version(requirement.name))


def test_what_is_installed_here_is_what_is_pinned():
    for requirement in declared_requirements():
        try:
            installed = Version(importlib.metadata.version(requirement.name))
        except importlib.metadata.PackageNotFoundError:
            continue  # an extra that this environment does without
        assert installed.public == str(pinned_version(requirement.name)), requirement.name


def test_the_packages_listed_are_the_packages_there():
    folders = {
        ".".join(file.parent.relative_to(ROOT).parts)
        for package in ("batch_job", "bigbird", "pipelines", "serving")
        for file in (ROOT / package).rglob("*.py")
    }
    assert set(find_packages(str(ROOT), **PROJECT["tool"]["setuptools"]["packages"]["find"])) == folders
    for folder in folders:
        assert (ROOT / folder.replace(".", "/") / "__init__.py").is_file(), f"{folder} has no __init__.py"


@pytest.mark.parametrize("target", PROJECT["project"]["scripts"].values())
def test_every_console_script_is_a_function_that_is_there(target):
    module, _, function = target.partition(":")
    source = (ROOT / module.replace(".", "/")).with_suffix(".py").read_text()
    assert re.search(rf"^def {function}\(", source, re.MULTILINE)


def test_the_python_versions_of_the_makefile_are_those_of_the_project():
    supported = SpecifierSet(PROJECT["project"]["requires-python"])
    lowest, highest = re.search(r"\(3, (\d+)\) <= .* <= \(3, (\d+)\)", (ROOT / "Makefile").read_text()).groups()
    for minor in range(8, 20):
        assert supported.contains(f"3.{minor}.0") == (int(lowest) <= minor <= int(highest))


def test_every_habit_is_a_target_whose_files_exist():
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not installed here")
    for habit in HABITS:
        plan = subprocess.run(
            [make, "--dry-run", "--always-make", habit], cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        assert plan.returncode == 0, plan.stderr
        for module in re.findall(
            r"python -m ((?:examples|pipelines|serving|benchmarks|checkpoints)\.[\w.]+)", plan.stdout
        ):
            assert (ROOT / module.replace(".", "/")).with_suffix(".py").is_file(), f"make {habit} runs {module}"
        for script in re.findall(r"python ((?:examples|benchmarks|checkpoints)/\S+\.py)", plan.stdout):
            assert (ROOT / script).is_file(), f"make {habit} runs {script}"


def test_an_interpreter_too_old_is_refused_in_one_clear_line(tmp_path):
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not installed here")
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    old = tmp_path / "python3.9"
    # An interpreter that says it is 3.9: `python -c PROGRAM`, with the version it claims put in front.
    old.write_text('#!/bin/sh\nexec python3 -c "import sys; sys.version_info = (3, 9, 2)\n$2"\n')
    old.chmod(0o755)
    run = subprocess.run([make, f"PYTHON={old}", "test"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert run.returncode != 0
    assert "needs Python 3.11 to 3.13" in run.stderr
    assert "make PYTHON=" in run.stderr
    assert not (tmp_path / ".venv").exists()


def test_the_licence_is_the_one_declared():
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert "Apache License\n                           Version 2.0, January 2004" in (ROOT / "LICENSE").read_text()
