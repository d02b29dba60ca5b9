"""What is settled before a fine-tuning run starts: the job, its labels and limits, the model it begins with.

Knows files, tokenizers and heads; no Ray, and nothing of steps.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import torch

from bigbird.config import BigBirdConfig
from bigbird.errors import InputError
from bigbird.heads import (
    BigBirdForCausalLM,
    BigBirdForMaskedLM,
    BigBirdForMultipleChoice,
    BigBirdForQuestionAnswering,
    BigBirdForSequenceClassification,
    BigBirdForTokenClassification,
)
from bigbird.loading.hub import resolve
from bigbird.loading.pretrained import PretrainedModel
from bigbird.tokenization.tokenizer import BigBirdTokenizer
from pipelines.finetuning.documents import (
    TASKS,
    Task,
    check_documents,
    check_split,
    find_labels,
    labels_whole_words,
)
from pipelines.finetuning.formats import Format, find_format
from pipelines.finetuning.metrics import LOSS, metrics_of
from pipelines.finetuning.options import TrainingOptions
from pipelines.finetuning.token_rows import Counts, ToRows
from pipelines.scoring.checks import digest_of
from pipelines.scoring.inputs.paths import find_files
from pipelines.scoring.inputs.units import PARQUET_SUFFIXES

HEADS: Mapping[str, type[PretrainedModel]] = {
    "token-classification": BigBirdForTokenClassification,
    "text-classification": BigBirdForSequenceClassification,
    "masked-lm": BigBirdForMaskedLM,
    "causal-lm": BigBirdForCausalLM,
    "multiple-choice": BigBirdForMultipleChoice,
    "question-answering": BigBirdForQuestionAnswering,
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """One fine-tuning run. Paths are strings, so that the job travels to workers as it is.

    cpus_per_worker: also the threads of a worker's model. patience: stop after so many evaluations without a better
    one. load_best: end with the weights of the best evaluation, as `patience` does, and make all steps.
    metric_for_best_model: what is better, by the lowest loss or by a figure of the task. Raises InputError for a count
    out of its range, and for a metric by which nothing is chosen.
    """

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
    cpus_per_worker: int = 1
    save_every: int = 100
    evaluate_every: int = 100
    patience: int | None = None
    load_best: bool = False
    metric_for_best_model: str = LOSS
    max_failures: int = 2

    def __post_init__(self) -> None:
        for name in ("num_workers", "cpus_per_worker", "save_every", "evaluate_every", "patience"):
            if (count := getattr(self, name)) is not None and count < 1:
                raise InputError(f"{name} is {count}, expected at least 1")
        if self.max_failures < 0:
            raise InputError(f"max_failures is {self.max_failures}, expected at least 0")
        if self.metric_for_best_model != LOSS and not self.keeps_best:
            raise InputError(
                f"metric_for_best_model is {self.metric_for_best_model!r}, but without load_best or patience nothing "
                "is chosen by it"
            )

    @property
    def keeps_best(self) -> bool:
        return self.load_best or self.patience is not None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is settled before anything starts: labels, limits, what the data holds, and the form its parts have.

    model_digest: of the files that the run begins with.
    aggregation_strategy: of a tagger, kept in its config: if all labelled spans are whole words, so are its entities.
    """

    labels: tuple[str, ...]
    unmeasured: tuple[str, ...]
    problem_type: str | None
    max_length: int
    counts: Mapping[str, Counts]
    formats: Mapping[str, Format]
    fingerprint: str
    model_digest: str
    aggregation_strategy: str | None = None


def labelled_files(given: str) -> tuple[pafs.FileSystem, list[str]]:
    """The Parquet files of a file, folder, glob or URI. Raises InputError where there are none, or other files."""
    found = find_files([given])
    for place, *_ in found.files.values():
        if not place.path.lower().endswith(PARQUET_SUFFIXES):  # Ray Data would leave it out
            raise InputError(f"{place.name!r} is no {', '.join(PARQUET_SUFFIXES)}; labelled rows are read from Parquet")
    return found.filesystem, sorted(found.files)


def read_documents(parquet: str, part: str, task: Task) -> tuple[list[dict[str, Any]], Format]:
    """The rows of a Parquet file or folder, or of one at a URI, as documents of a task, and the form they have there.

    Raises InputError where there is nothing to read, and for a row that is not understood.
    """
    filesystem, paths = labelled_files(parquet)
    try:
        table = pq.read_table(paths, filesystem=filesystem)
        rows: list[dict[str, Any]] = table.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{parquet}: expected a Parquet file or folder, {error}") from None
    form = find_format(rows, task, table.schema.metadata)
    return [form.document(row, f"{part}, row {number}") for number, row in enumerate(rows)], form


def make_rows(job: Job, labels: Sequence[str], problem_type: str | None, max_length: int) -> ToRows:
    return ToRows(
        task=job.task,
        tokenizer=BigBirdTokenizer.from_pretrained(job.model),
        config=BigBirdConfig.from_pretrained(job.model),
        labels=labels,
        max_length=max_length,
        problem_type=problem_type,
    )


def plan_job(job: Job) -> Plan:
    """Check the data and the model, before anything starts. Raises InputError or CheckpointError in one line."""
    if job.task not in TASKS:
        raise InputError(f"task {job.task!r} is not known; the tasks are {', '.join(TASKS)}")
    for name, value, default, task in (
        ("scheme", job.scheme, Job.scheme, "token-classification"),
        ("mask_share", job.options.mask_share, TrainingOptions.mask_share, "masked-lm"),
    ):
        if value != default and job.task != task:
            raise InputError(f"{name} is {value!r}, which is for {task} alone; the task is {job.task}")
    config = BigBirdConfig.from_pretrained(job.model)
    max_length = config.max_position_embeddings if job.max_length is None else job.max_length
    if not 3 <= max_length <= config.max_position_embeddings:
        raise InputError(f"max_length is {max_length}; the model reads 3 to {config.max_position_embeddings} tokens")
    documents, formats = {}, {}
    for part, path in (("train", job.train), ("eval", job.held_out)):
        documents[part], formats[part] = read_documents(path, part, job.task)
    for part, rows in documents.items():
        check_documents(rows, job.task, part)
    labels, problem_type = find_labels(documents["train"], job.task, job.scheme)
    unmeasured = check_split(documents["train"], documents["eval"], job.task, problem_type)
    to_rows = make_rows(job, labels, problem_type, max_length)
    counts = {part: to_rows.rows(rows)[1] for part, rows in documents.items()}
    aggregation_strategy = None
    if job.task == "token-classification":
        aggregation_strategy = "words" if labels_whole_words(documents["train"]) else "simple"
    known = metrics_of(job.task, problem_type)
    if job.metric_for_best_model not in known:
        raise InputError(f"metric_for_best_model is {job.metric_for_best_model!r}, expected one of {', '.join(known)}")
    return Plan(
        labels=tuple(labels),
        unmeasured=tuple(unmeasured),
        problem_type=problem_type,
        max_length=max_length,
        counts=counts,
        formats=formats,
        fingerprint=_fingerprint(job.train, job.held_out),
        model_digest=digest_of(resolve(job.model)),
        aggregation_strategy=aggregation_strategy,
    )


def _fingerprint(*paths: str) -> str:
    """Of the content of Parquet files, in the order of their names."""
    digest = hashlib.sha256()
    for filesystem, files in map(labelled_files, paths):
        for path in files:
            with filesystem.open_input_file(path) as file:
                digest.update(file.read_buffer())
    return digest.hexdigest()[:16]


def new_model(job: Job, plan: Plan) -> Any:
    """The checkpoint under the task's head, in float32; a head it does not have is drawn from the seed."""
    torch.manual_seed(job.options.seed)
    changes: dict[str, Any] = {"is_decoder": job.task == "causal-lm"}
    if plan.labels:
        changes |= {"id2label": dict(enumerate(plan.labels)), "problem_type": plan.problem_type}
    if plan.aggregation_strategy:
        params = {job.task: {"aggregation_strategy": plan.aggregation_strategy}}
        changes["extra"] = {**BigBirdConfig.from_pretrained(job.model).extra, "task_specific_params": params}
    model = HEADS[job.task].from_pretrained(job.model, dtype=torch.float32, **changes)
    if model.generation_config is not None:
        # Texts are trained as they are tokenized, [CLS] text [SEP]: so they begin and end when they are generated.
        tokenizer = BigBirdTokenizer.from_pretrained(job.model)
        ends = dict.fromkeys((tokenizer.sep_token_id, *model.generation_config.eos_token_ids))
        model.generation_config.bos_token_id = tokenizer.cls_token_id
        model.generation_config.eos_token_id = list(ends)
    return model
