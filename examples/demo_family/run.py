"""Run the recipe of the demo family, `recipe.toml`, step by step; what is made already is not made again.

python -m examples.demo_family.run [--list]
"""

import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

RECIPE = Path(__file__).with_name("recipe.toml")


def steps() -> Iterator[tuple[str | None, list[str]]]:
    """(the file that a step makes, if any; the module and its arguments), in order, `for` unrolled."""
    for step in tomllib.loads(RECIPE.read_text())["step"]:
        for name in step.get("for", [""]):
            makes = step.get("makes")
            yield makes and makes.replace("{}", name), shlex.split(step["run"].replace("{}", name))


def main() -> None:
    for makes, command in steps():
        print("python -m", *command, flush=True)
        if "--list" not in sys.argv[1:] and not (makes and Path(makes).exists()):
            subprocess.run([sys.executable, "-m", *command], check=True)


if __name__ == "__main__":
    main()
