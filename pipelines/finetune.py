"""Fine-tune a checkpoint on labelled Parquet with Ray Train, on one worker or many.

    python -m pipelines.finetune --task token-classification --model checkpoints/fill-mask \\
        --train train.parquet --eval eval.parquet --output my-tagger

The output directory is a Hugging Face checkpoint with a model card; `pipelines.score`, `serving` and transformers load
it. Start the same command again after whatever stopped it: it goes on from its last state, and ends with the weights
it would have had. Exit status as in `pipelines.score`: 0 done, 1 stopped on the way, 2 refused before it started.
"""

import argparse
import hashlib
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch
from ray import train
from ray.train.torch import TorchTrainer

from bigbird.errors import BigBirdError, InputError
from bigbird.heads import (
    BigBirdForCausalLM,
    BigBirdForMaskedLM,
    BigBirdForMultipleChoice,
    BigBirdForQuestionAnswering,
    BigBirdForSequenceClassification,
    BigBirdForTokenClassification,
)
from bigbird.hub import resolve
from bigbird.pretrained import PretrainedModel, load_config
from bigbird.tokenizer import BigBirdTokenizer
from pipelines.labelled import TASKS, Task, check_documents, check_split, find_labels, from_words
from pipelines.metrics import measure
from pipelines.model_card import write_card
from pipelines.token_rows import Counts, TokenRow, ToRows
from pipelines.training import Objective, Run, TrainingOptions

HEADS: Mapping[str, type[PretrainedModel]] = {
    "token-classification": BigBirdForTokenClassification,
    "text-classification": BigBirdForSequenceClassification,
    "masked-lm": BigBirdForMaskedLM,
    "causal-lm": BigBirdForCausalLM,
    "multiple-choice": BigBirdForMultipleChoice,
    "question-answering": BigBirdForQuestionAnswering,
}
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


@dataclass(frozen=True, kw_only=True)
class Job:
    """One fine-tuning run. Paths are strings, so that the job travels to workers as it is."""

    task: Task
    model: str
    train: str
    held_out: str
    output: str
    options: TrainingOptions = field(default_factory=TrainingOptions)
    max_length: int | None = None
    scheme: str = "bio"
    num_workers: int = 1
    use_gpu: bool = False
    save_every: int = 100
    evaluate_every: int = 100
    patience: int | None = None
    max_failures: int = 2


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is settled before anything starts: labels, limits, and what the data holds."""

    labels: tuple[str, ...]
    unmeasured: tuple[str, ...]
    problem_type: str | None
    max_length: int
    counts: Mapping[str, Counts]
    fingerprint: str


def read_documents(parquet: str, part: str) -> list[dict[str, Any]]:
    """The rows of a Parquet file or folder, words as text; raises InputError where there is none to read."""
    try:
        rows: list[dict[str, Any]] = pq.read_table(parquet).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{parquet}: expected a Parquet file or folder, {error}") from None
    return [from_words(row, f"{part}, row {number}") for number, row in enumerate(rows)]


def _to_rows(job: Job, labels: Sequence[str], problem_type: str | None, max_length: int) -> ToRows:
    return ToRows(
        task=job.task,
        tokenizer=BigBirdTokenizer.from_pretrained(job.model),
        config=load_config(job.model),
        labels=labels,
        max_length=max_length,
        problem_type=problem_type,
    )


def plan_job(job: Job) -> Plan:
    """Check the data and the model, before anything starts. Raises InputError or CheckpointError in one line."""
    if job.task not in TASKS:
        raise InputError(f"task {job.task!r} is not known; the tasks are {', '.join(TASKS)}")
    config = load_config(job.model)
    max_length = job.max_length or config.max_position_embeddings
    if not 3 <= max_length <= config.max_position_embeddings:
        raise InputError(f"max_length is {max_length}; the model reads 3 to {config.max_position_embeddings} tokens")
    documents = {part: read_documents(path, part) for part, path in (("train", job.train), ("eval", job.held_out))}
    for part, rows in documents.items():
        check_documents(rows, job.task, part)
    labels, problem_type = find_labels(documents["train"], job.task, job.scheme)
    unmeasured = check_split(documents["train"], documents["eval"], job.task, problem_type)
    to_rows = _to_rows(job, labels, problem_type, max_length)
    counts = {part: to_rows.rows(rows)[1] for part, rows in documents.items()}
    digest = hashlib.sha256()
    for path in (job.train, job.held_out):
        for file in sorted(Path(path).rglob("*.parquet")) if Path(path).is_dir() else [Path(path)]:
            digest.update(file.read_bytes())
    return Plan(
        labels=tuple(labels),
        unmeasured=tuple(unmeasured),
        problem_type=problem_type,
        max_length=max_length,
        counts=counts,
        fingerprint=digest.hexdigest()[:16],
    )


def new_model(job: Job, plan: Plan) -> Any:
    """The checkpoint under the task's head, in float32; a head it does not have is drawn from the seed."""
    torch.manual_seed(job.options.seed)
    changes: dict[str, Any] = {"is_decoder": job.task == "causal-lm"}
    if plan.labels:
        changes |= {"id2label": dict(enumerate(plan.labels)), "problem_type": plan.problem_type}
    return HEADS[job.task].from_pretrained(job.model, dtype=torch.float32, **changes)


class ToTokenRows:
    """The `map_batches` step of Ray Data: labelled documents in, rows of tokens out."""

    def __init__(self, job: Job, plan: Plan) -> None:
        self.job = job
        self.plan = plan

    def __call__(self, table: pa.Table) -> pa.Table:
        plan = self.plan
        documents = [from_words(row, "a row") for row in table.to_pylist()]
        rows, _ = _to_rows(self.job, plan.labels, plan.problem_type, plan.max_length).rows(documents)
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
    model = new_model(job, plan)
    if job.use_gpu:
        model.to(torch.device("cuda", torch.cuda.current_device()))
    mask = BigBirdTokenizer.from_pretrained(job.model).mask_token_id
    run = Run(Objective(model, job.task, job.options, mask), shard_rows("train"), job.options)
    held_out = shard_rows("eval")
    history: list[dict[str, float]] = []
    if checkpoint := train.get_checkpoint():
        with checkpoint.as_directory() as directory:
            state = torch.load(Path(directory) / STATE, weights_only=True, map_location=model.device)
        run.restore(state)
        history = state["history"]
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
                print(f"step {run.step}/{len(run.steps)} loss {loss:.4f} {speed:.0f} tokens/s", flush=True)
        if run.step % job.evaluate_every == 0 or done:
            history.append({"step": run.step, "loss": run.evaluate(held_out)})
            if writer is not None:
                writer.add_scalar("eval_loss", history[-1]["loss"], run.step)
        if run.step % job.save_every == 0 or done or _is_stale(history, job.patience):
            _report(run, history, rank)
    if writer is not None:
        writer.close()


def _is_stale(history: Sequence[Mapping[str, float]], patience: int | None) -> bool:
    """Whether the last `patience` evaluations brought nothing better than the best before them."""
    if patience is None or len(history) <= patience:
        return False
    losses = [entry["loss"] for entry in history]
    return min(losses[-patience:]) >= min(losses[:-patience])


def _tensorboard(job: Job) -> Any:
    from tensorboardX import SummaryWriter  # type: ignore[import-untyped]  # comes with ray[train]; only the first worker writes

    return SummaryWriter(str(Path(job.output) / "tensorboard"))


def _report(run: Run, history: list[dict[str, float]], rank: int) -> None:
    metrics = {"step": run.step, "loss": run.losses[-1]}
    if rank != 0:
        train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as directory:
        torch.save({**run.state(), "history": history}, Path(directory) / STATE)
        train.report(metrics, checkpoint=train.Checkpoint.from_directory(directory))


def finetune(job: Job) -> dict[str, float]:
    """Run the job to its end and write the checkpoint; returns the held-out figures.

    Raises InputError or CheckpointError before anything starts, ray.train.TrainingFailedError on the way.
    """
    output = Path(job.output).resolve()
    named = job
    # Workers run in directories of their own.
    job = replace(job, model=str(resolve(job.model).resolve()), output=str(output))
    plan = plan_job(job)
    if plan.unmeasured:
        print(f"no evaluation row has the label {', '.join(plan.unmeasured)}: nothing is measured of it", flush=True)
    output.mkdir(parents=True, exist_ok=True)
    # Made before the workers take their CPUs: on a small machine, none would be left to make them with.
    datasets: dict[str, Any] = {
        part: ray.data.read_parquet(path).map_batches(ToTokenRows(job, plan), batch_format="pyarrow").materialize()
        for part, path in (("train", job.train), ("eval", job.held_out))
    }
    trainer = TorchTrainer(
        work,
        train_loop_config={"job": job, "plan": plan},
        scaling_config=train.ScalingConfig(num_workers=job.num_workers, use_gpu=job.use_gpu),
        run_config=train.RunConfig(
            name="states",
            storage_path=str(output / "training"),
            failure_config=train.FailureConfig(max_failures=job.max_failures),
            checkpoint_config=train.CheckpointConfig(num_to_keep=2),
        ),
        datasets=datasets,
        dataset_config=train.DataConfig(datasets_to_split=[]),
    )
    result = trainer.fit()
    assert result.checkpoint is not None, "the last step always reports one"
    with result.checkpoint.as_directory() as directory:
        state = torch.load(Path(directory) / STATE, weights_only=True, map_location="cpu")
    model = new_model(job, plan)
    model.load_state_dict(state["model"])
    model.eval().save_pretrained(output)
    for file in Path(job.model).glob("*"):
        if file.suffix in (".json", ".model") and file.name not in ("config.json", "model.safetensors.index.json"):
            shutil.copyfile(file, output / file.name)
    figures = {"eval_loss": state["history"][-1]["loss"]} if state["history"] else {}
    if job.task == "causal-lm" and figures:
        figures["perplexity"] = math.exp(figures["eval_loss"])
    figures |= measure(job.task, str(output), read_documents(job.held_out, "eval"))
    write_card(output, named, plan, state["losses"], state["history"], figures)
    return figures


def parse(argv: Sequence[str] | None) -> Job:
    parser = argparse.ArgumentParser(prog="python -m pipelines.finetune", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--task", required=True, choices=TASKS)
    parser.add_argument("--model", required=True, help="checkpoint directory to start from")
    parser.add_argument("--train", required=True, metavar="PARQUET")
    parser.add_argument("--eval", required=True, metavar="PARQUET", dest="held_out")
    parser.add_argument("--output", required=True, metavar="DIR")
    parser.add_argument("--max-length", type=int, help="tokens a row may have; default: what the model reads")
    parser.add_argument("--scheme", choices=["bio", "io"], default="bio", help="labels of entities: B-X and I-X, or X")
    parser.add_argument("--num-workers", type=int, default=1)
    parser.add_argument("--use-gpu", action="store_true")
    parser.add_argument("--save-every", type=int, default=100, metavar="STEPS")
    parser.add_argument("--evaluate-every", type=int, default=100, metavar="STEPS")
    parser.add_argument("--patience", type=int, help="stop after so many evaluations without a lower loss")
    defaults = TrainingOptions()
    for name, default in asdict(defaults).items():
        flag = "--" + name.replace("_", "-")
        if isinstance(default, bool):
            parser.add_argument(flag, action="store_true")
        else:
            choices = ["float32", "bfloat16"] if name == "dtype" else None
            parser.add_argument(flag, type=type(default), default=default, choices=choices)
    values = vars(parser.parse_args(argv))
    options = TrainingOptions(**{name: values.pop(name) for name in asdict(defaults)})
    return Job(options=options, **values)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; the exit status is said in the module's docstring."""
    try:
        figures = finetune(parse(argv))
    except BigBirdError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except train.TrainingFailedError as error:
        print(f"stopped: {error}; start the same command again to go on", file=sys.stderr)
        return 1
    print(", ".join(f"{name} {value:.4f}" for name, value in figures.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
