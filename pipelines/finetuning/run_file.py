"""What an output directory was begun with, so that another run never goes on from its state by mistake."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pyarrow.fs as pafs

from bigbird.errors import InputError
from pipelines.finetuning.metrics import LOSS
from pipelines.finetuning.plan import Job, Plan
from pipelines.scoring.ledger.identity import differences
from pipelines.scoring.storage import Place, make_writable, read_whole, write_whole


def claim(output: Place, job: Job, plan: Plan) -> None:
    """Take an output directory for a run, or go on with the same run in it.

    Raises InputError where it cannot be written, and as `is_begun`.
    """
    if not is_begun(output, job, plan):
        make_writable(output.child("training"))
        write_whole(_file(output), json.dumps(_identity(job, plan), indent=1).encode())


def is_begun(output: Place, job: Job, plan: Plan) -> bool:
    """Whether the run was begun in an output directory. Only looks.

    Raises InputError where the directory holds files that no run of this command began, and where that run had another
    task, model, data, labels or options. The number of workers may differ: it decides where a step is computed, not
    what.
    """
    if (begun := read_whole(_file(output))) is not None:
        if differing := differences(json.loads(begun), _identity(job, plan)):
            raise InputError(f"output {output.name!r} holds another run: {differing}. Choose another or remove it")
        return True
    found = output.filesystem.get_file_info(pafs.FileSelector(output.path, allow_not_found=True))
    if found:
        raise InputError(
            f"output {output.name!r} holds {found[0].base_name!r} and no run of this command; choose another directory"
        )
    return False


def _file(output: Place) -> Place:
    return output.child("training").child("run.json")


def _identity(job: Job, plan: Plan) -> dict[str, Any]:
    made: Mapping[str, Any] = {
        "task": job.task,
        "model": plan.model_digest,
        "data": plan.fingerprint,
        "labels": list(plan.labels),
        "problem_type": plan.problem_type,
        "max_length": plan.max_length,
        "patience": job.patience,
        "load_best": job.load_best,
        **({} if job.metric_for_best_model == LOSS else {"metric_for_best_model": job.metric_for_best_model}),
        "evaluate_every": job.evaluate_every,
        **asdict(job.options),
    }
    return json.loads(json.dumps(made))  # type: ignore[no-any-return]
