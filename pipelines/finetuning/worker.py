"""What a fine-tuning run does on Ray: rows of tokens by Ray Data, and the loop that every worker of Ray Train runs.

Knows datasets, ranks, reported checkpoints and TensorBoard; the steps themselves are in `training`.
"""

import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from ray import train
from torch import Tensor

from bigbird.tokenization.tokenizer import BigBirdTokenizer
from pipelines.finetuning.objective import Objective
from pipelines.finetuning.plan import Job, Plan, make_rows, new_model
from pipelines.finetuning.token_rows import TokenRow
from pipelines.finetuning.training import Run

ROW_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("ids", pa.list_(pa.int32())),
        ("token_type_ids", pa.list_(pa.int8())),
        ("lengths", pa.list_(pa.int32())),
        ("targets", pa.list_(pa.float64())),
    ]
)
STATE = "state.pt"
"""The file of a reported checkpoint."""


class ToTokenRows:
    """The `map_batches` step of Ray Data: labelled documents in, rows of tokens out."""

    def __init__(self, job: Job, plan: Plan, part: str) -> None:
        self.job = job
        self.plan = plan
        self.part = part

    def __call__(self, table: pa.Table) -> pa.Table:
        plan = self.plan
        documents = [plan.formats[self.part].document(row, self.part) for row in table.to_pylist()]
        rows, _ = make_rows(self.job, plan.labels, plan.problem_type, plan.max_length).rows(documents)
        return pa.Table.from_pylist([asdict(row) for row in rows], schema=ROW_SCHEMA)


def shard_rows(name: str) -> list[TokenRow]:
    """All rows of a dataset, in the worker's memory: labelled data is small beside the model's states."""
    rows: list[TokenRow] = []
    for batch in train.get_dataset_shard(name).iter_batches(batch_size=None, batch_format="pyarrow"):
        for row in batch.to_pylist():
            lists = {name: tuple(values) for name, values in row.items() if name != "key"}
            rows.append(TokenRow(key=row["key"], **lists))
    return sorted(rows, key=lambda row: (row.key, row.targets))


def work(config: dict[str, Any]) -> None:
    """What every worker runs. Workers make the same steps of the same plan, each on its share of a step's rows."""
    job, plan = config["job"], config["plan"]
    context = train.get_context()
    rank, num_workers = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(job.cpus_per_worker)
    model = new_model(job, plan)
    if job.use_gpu:
        model.to(torch.device("cuda", torch.cuda.current_device()))
    mask = BigBirdTokenizer.from_pretrained(job.model).mask_token_id
    run = Run(Objective(model, job.task, job.options, mask), shard_rows("train"), job.options)
    held_out = shard_rows("eval")
    history: list[dict[str, float]] = []
    best: dict[str, Tensor] | None = None
    if checkpoint := train.get_checkpoint():
        with checkpoint.as_directory() as directory:
            state = torch.load(Path(directory) / STATE, weights_only=True, map_location=model.device)
        run.restore(state)
        history, best = state["history"], state["best"]
    writer = _tensorboard(job) if rank == 0 else None
    began, tokens = time.perf_counter(), 0
    while not run.is_finished and not _is_stale(history, job.patience):
        rate = run.rate(run.step)
        tokens += sum(len(run.rows[index].ids) for index in run.steps[run.step])
        loss = run.advance(rank, num_workers)
        done = run.step == len(run.steps)
        if writer is not None:
            writer.add_scalar("loss", loss, run.step)
            writer.add_scalar("learning_rate", rate, run.step)
            if run.step % 10 == 0 or done:
                speed = tokens / (time.perf_counter() - began)
                # Not `print`, which Ray Train turns into a log line beside the printed one.
                sys.stdout.write(f"step {run.step}/{len(run.steps)} loss {loss:.4f} {speed:.0f} tokens/s\n")
                sys.stdout.flush()
        if run.step % job.evaluate_every == 0 or done:
            history.append({"step": run.step, "loss": run.evaluate(held_out, rank, num_workers)})
            if job.keeps_best and history[-1] is lowest(history):
                best = {name: weight.detach().cpu().clone() for name, weight in model.state_dict().items()}
            if writer is not None:
                writer.add_scalar("eval_loss", history[-1]["loss"], run.step)
        if run.step % job.save_every == 0 or done or _is_stale(history, job.patience):
            _report({**run.state(), "history": history, "best": best}, rank)
    if writer is not None:
        writer.close()


def lowest(history: Sequence[dict[str, float]]) -> dict[str, float]:
    """The first of the evaluations with the lowest loss."""
    return min(history, key=lambda entry: entry["loss"])


def _is_stale(history: Sequence[Mapping[str, float]], patience: int | None) -> bool:
    """Whether the last `patience` evaluations brought nothing better than the best before them."""
    if patience is None or len(history) <= patience:
        return False
    losses = [entry["loss"] for entry in history]
    return min(losses[-patience:]) >= min(losses[:-patience])


def _tensorboard(job: Job) -> Any:
    from tensorboardX import SummaryWriter  # type: ignore[import-untyped]  # comes with ray[train]; only the first worker writes

    return SummaryWriter(str(Path(job.output) / "tensorboard"))


def _report(state: Mapping[str, Any], rank: int) -> None:
    metrics = {"step": len(state["losses"]), "loss": state["losses"][-1]}
    if rank != 0:
        train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as directory:
        torch.save(dict(state), Path(directory) / STATE)
        train.report(metrics, checkpoint=train.Checkpoint.from_directory(directory))
