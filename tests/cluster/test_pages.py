"""The pages and scripts that people type from: every command exists, takes these options, and the files are there."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from ray.scripts.scripts import cli as ray_cli

from pipelines.scoring.arguments import parser, scores_given, verify_parser
from pipelines.scoring.schemas import TASKS

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md")), *sorted(CLUSTER.glob("*.md"))]
# Scripts whose opening comment shows how they are started.
SCRIPTS = [CLUSTER / "slurm.sh", CLUSTER / "serve.yaml", CLUSTER / "aws.yaml", CLUSTER / "gcp.yaml"]


def lines_to_type() -> Iterator[tuple[str, list[str]]]:
    """(file, words) of every line in the pages' code blocks and the scripts' comments."""
    for page in PAGES:
        for kind, block in re.findall(r"^```(\w*)[^\n]*\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
            for line in block.replace("\\\n", " ").splitlines() if kind in ("", "bash") else ():
                yield page.name, shlex.split(line, comments=True)
    for script in SCRIPTS:
        comments = "\n".join(re.findall(r"^# ? ? ?(.*)", script.read_text(), re.MULTILINE))
        for line in comments.replace("\\\n", " ").splitlines():
            if re.match(r" *(sbatch|serve|ray) ", line):
                yield script.name, shlex.split(line, comments=True)


def commands(*names: str) -> list[tuple[str, list[str]]]:
    """(file, arguments) wherever one of `names` is typed, with or without its folder."""
    found = []
    for file, words in lines_to_type():
        for place, word in enumerate(words):
            if word.rpartition("/")[2] in names and (place == 0 or words[place - 1] in ("&&", "-m")):
                arguments = words[place + 1 :]
                found.append((file, arguments[: arguments.index("&&")] if "&&" in arguments else arguments))
    return found


def parse(command: click.Command, arguments: list[str]) -> None:
    """Raises for an option that `command` does not have; runs nothing."""
    command.make_parser(click.Context(command)).parse_args(arguments)


SLURM = [(file, words[words.index("cluster/slurm.sh") + 1 :]) for file, words in commands("sbatch")]
SCORED = commands("pipelines.score", "bigbird-score") + SLURM
RAY = [(file, ["ray", *words]) for file, words in commands("ray")]
RAY += [(file, ["serve", *words]) for file, words in commands("serve")]


@pytest.mark.parametrize(("file", "words"), SCORED, ids=lambda value: value if isinstance(value, str) else "")
def test_every_scoring_job_that_is_shown_has_options_that_exist(file, words):
    if words[0] == "verify":
        assert verify_parser().parse_args(words[1:]).output
        return
    parsed = parser().parse_args(words)
    scores = [(score.task, score.model) for score in scores_given(parsed)] or [(parsed.task, parsed.model)]
    for task, model in scores:
        assert task in TASKS
        assert (ROOT / model).is_dir(), f"{file}: {model}"


@pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")  # Ray's own schemas
@pytest.mark.parametrize(("file", "words"), RAY, ids=lambda value: value if isinstance(value, str) else "")
def test_every_command_of_ray_and_serve_that_is_shown_has_options_that_exist(file, words):
    from ray.serve.scripts import cli as serve_cli

    name, *arguments = words
    command: click.Command = {"ray": ray_cli, "serve": serve_cli}[name]
    while isinstance(command, click.Group):
        command = command.commands[arguments.pop(0)]
    parse(command, arguments)


def test_a_command_with_an_option_that_does_not_exist_would_be_found():
    with pytest.raises(click.NoSuchOption):
        parse(ray_cli.commands["up"], ["cluster.yaml", "--yse"])
    assert len(SCORED) >= 6
    assert len(RAY) >= 20


def test_every_test_and_file_the_pages_name_exists():
    for page in PAGES:
        text = page.read_text()
        for name in re.findall(r"`(tests/\w+\.py)`", text):
            assert (ROOT / name).is_file(), f"{page.name}: {name}"
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_what_a_person_has_to_name_is_called_yours_and_is_said_on_the_page():
    for name in ("aws.yaml", "gcp.yaml"):
        text = (CLUSTER / name).read_text()
        assert "image: your-registry/bigbird-on-ray:" in text
    assert "replace what is called `your-...`" in (CLUSTER / "README.md").read_text()
