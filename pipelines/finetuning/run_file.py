"""What an output directory was begun with, so that another run never goes on from its state by mistake."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bigbird.errors import InputError
from pipelines.finetuning.plan import Job, Plan
from pipelines.scoring.checks import digest_of

RUN_FILE = Path("training") / "run.json"
ADVICE = "Choose another directory, or remove this one"


def claim(output: Path, job: Job, plan: Plan) -> None:
    """Take an output directory for a run, or go on with the same run in it.

    Raises InputError where it holds files that no run of this command began, or where that run had another task, model,
    data, labels or options. The number of workers may differ: it decides where a step is computed, not what.
    """
    wanted = _identity(job, plan)
    file = output / RUN_FILE
    if file.exists():
        begun = json.loads(file.read_text())
        differing = sorted(name for name in wanted.keys() | begun.keys() if wanted.get(name) != begun.get(name))
        if differing:
            changes = "; ".join(
                f"{name} {_short(begun.get(name))} then, {_short(wanted.get(name))} now" for name in differing
            )
            raise InputError(
                f"output {str(output)!r} holds another run: {changes}. Choose another directory or remove it"
            )
        return
    if output.is_dir() and (found := next(output.iterdir(), None)) is not None:
        raise InputError(
            f"output {str(output)!r} holds {found.name!r} and no run of this command; choose another directory"
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(wanted, indent=1))
    os.replace(unfinished, file)


def _identity(job: Job, plan: Plan) -> dict[str, Any]:
    made: Mapping[str, Any] = {
        "task": job.task,
        "model": digest_of(Path(job.model)),
        "data": plan.fingerprint,
        "labels": list(plan.labels),
        "problem_type": plan.problem_type,
        "max_length": plan.max_length,
        "patience": job.patience,
        "load_best": job.load_best,
        "evaluate_every": job.evaluate_every,
        **asdict(job.options),
    }
    return json.loads(json.dumps(made))  # type: ignore[no-any-return]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
