"""What a fine-tuning run does on Ray: rows of tokens by Ray Data, and the loop that every worker of Ray Train runs.

Knows datasets, ranks, reported checkpoints and TensorBoard; the steps themselves are in `training`.
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from ray import train
from torch import Tensor

from bigbird.linear.memory import keep_freed_memory
from bigbird.loading.hub import resolve
from bigbird.tokenization.tokenizer import BigBirdTokenizer
from pipelines.finetuning.folder import Folder
from pipelines.finetuning.metrics import LOSS, best_of, is_stale, measure
from pipelines.finetuning.objective import Objective
from pipelines.finetuning.plan import Job, Plan, make_rows, new_model, read_documents
from pipelines.finetuning.token_rows import TokenRow, from_table, in_order, to_table
from pipelines.finetuning.training import Run
from pipelines.scoring.checks import check_same
from pipelines.scoring.storage import locate

STATE = "state.pt"
"""The file of a reported checkpoint."""
OF_THE_MODEL = ("config.json", "generation_config.json", "model.safetensors.index.json")
"""Files that a model writes itself, where it has them."""


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
        return to_table(rows)


def shard_rows(name: str) -> list[TokenRow]:
    """All rows of a dataset, in any order, in the worker's memory: labelled data is small beside the model's states."""
    rows: list[TokenRow] = []
    for batch in train.get_dataset_shard(name).iter_batches(batch_size=None, batch_format="pyarrow"):
        rows += from_table(batch)
    return rows


def work(config: dict[str, Any]) -> None:
    """What every worker runs. Workers make the same steps of the same plan, each on its share of a step's rows."""
    job, plan = config["job"], config["plan"]
    check_same(job.model, plan.model_digest)
    context = train.get_context()
    rank, num_workers = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(job.cpus_per_worker)
    if not job.use_gpu:
        keep_freed_memory()
    model = new_model(job, plan)
    if job.use_gpu:
        model.to(torch.device("cuda", torch.cuda.current_device()))
    mask = BigBirdTokenizer.from_pretrained(job.model).mask_token_id
    run = Run(Objective(model, job.task, job.options, mask), shard_rows("train"), job.options)
    held_out = in_order(shard_rows("eval"))
    history: list[dict[str, float]] = []
    best: dict[str, Tensor] | None = None
    if checkpoint := train.get_checkpoint():
        with checkpoint.as_directory() as directory:
            state = torch.load(Path(directory) / STATE, weights_only=True, map_location=model.device)
        run.restore(state)
        history, best = state["history"], state["best"]
    curves = _Curves(job) if rank == 0 else None
    metric = job.metric_for_best_model
    documents: Sequence[Mapping[str, Any]] = ()
    if rank == 0 and metric != LOSS:
        documents, _ = read_documents(job.held_out, "eval", job.task)
    began, tokens = time.perf_counter(), 0
    while not run.is_finished and not is_stale(history, metric, job.patience):
        rate = run.rate(run.step)
        tokens += sum(len(run.rows[index].ids) for index in run.steps[run.step])
        loss = run.advance(rank, num_workers)
        done = run.step == len(run.steps)
        if curves is not None:
            curves.add("loss", loss, run.step)
            curves.add("learning_rate", rate, run.step)
            if run.step % 10 == 0 or done:
                speed = tokens / (time.perf_counter() - began)
                # Not `print`, which Ray Train turns into a log line beside the printed one.
                sys.stdout.write(f"step {run.step}/{len(run.steps)} loss {loss:.4f} {speed:.0f} tokens/s\n")
                sys.stdout.flush()
        if run.step % job.evaluate_every == 0 or done:
            history.append({"step": run.step, "loss": run.evaluate(held_out, rank, num_workers)})
            if metric != LOSS:
                history[-1][metric] = _measured(job, model, documents, rank, num_workers)
            if job.keeps_best and history[-1] is best_of(history, metric):
                best = {name: weight.detach().cpu().clone() for name, weight in model.state_dict().items()}
            if curves is not None:
                for name in history[-1].keys() - {"step"}:
                    curves.add(LOSS if name == "loss" else name, history[-1][name], run.step)
        if run.step % job.save_every == 0 or done or is_stale(history, metric, job.patience):
            _report({**run.state(), "history": history, "best": best}, rank)
            if curves is not None:
                curves.save()


def save_model(model: Any, job: Job, folder: Path) -> None:
    """A checkpoint of the model, with the files of the one it began as that it does not write itself."""
    model.save_pretrained(folder)
    for file in resolve(job.model).glob("*"):
        if file.suffix in (".json", ".model") and file.name not in OF_THE_MODEL:
            shutil.copyfile(file, folder / file.name)


def _measured(job: Job, model: Any, documents: Sequence[Mapping[str, Any]], rank: int, num_workers: int) -> float:
    """What `metric_for_best_model` is on the held-out rows: the first worker, which has them, finds out; all of them
    return it."""
    value = torch.zeros((), dtype=torch.float64, device=model.device)
    if rank == 0:
        with tempfile.TemporaryDirectory() as folder:
            save_model(model, job, Path(folder))
            value += measure(job.task, folder, documents, str(model.device))[job.metric_for_best_model]
    if num_workers > 1:
        torch.distributed.broadcast(value, src=0)
    return value.item()


class _Curves:
    """TensorBoard's files in `tensorboard` of the output; those of an output elsewhere come there with each state."""

    def __init__(self, job: Job) -> None:
        from tensorboardX import SummaryWriter  # type: ignore[import-untyped]  # comes with ray[train]; only the first worker writes

        self._folder = Folder(locate(job.output).child("tensorboard"))
        self._writer = SummaryWriter(str(self._folder.path))

    def add(self, name: str, value: float, step: int) -> None:
        self._writer.add_scalar(name, value, step)

    def save(self) -> None:
        self._writer.flush()
        self._folder.save()


def _report(state: Mapping[str, Any], rank: int) -> None:
    metrics = {"step": len(state["losses"]), "loss": state["losses"][-1]}
    if rank != 0:
        train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as directory:
        torch.save(dict(state), Path(directory) / STATE)
        train.report(metrics, checkpoint=train.Checkpoint.from_directory(directory))
