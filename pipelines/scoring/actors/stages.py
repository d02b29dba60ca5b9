"""The steps of Ray Data that score rows, the same ones for a job and for a pipeline.

rows -> TokenizeRows (CPU workers, where GPUs score) -> the scorer (a pool of actors)
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from ray.data import ActorPoolStrategy, Dataset

from pipelines.scoring.actors.pool import Pool, ScoreOptions
from pipelines.scoring.actors.score_rows import Stage
from pipelines.scoring.actors.tokenize_rows import TokenizeRows
from pipelines.scoring.checks import ModelInfo
from pipelines.scoring.schemas import result_fields


def make_stage(
    task: str, model: str, options: ScoreOptions, *, load: Callable[..., Any], inspect: Callable[..., ModelInfo]
) -> tuple[Stage, ModelInfo]:
    """What an actor needs to score rows, and what is known of its model.

    `load` makes a predictor in an actor (`bigbird.load_predictor`), `inspect` describes its checkpoint beforehand
    (`pipelines.scoring.checks.inspect_model`). Raises InputError or CheckpointError: an unknown task, a model
    without its head, options that the model cannot meet.
    """
    columns = options.columns.of_task(task)
    info = inspect(task, model, options.dtype)
    # Its tokenizer; a device and options that it cannot meet.
    load(task, model, device=options.device, options=options.task_options, weights=False)
    stage = Stage(
        task=task,
        model=info.location or model,
        digest=info.digest if info.location else None,
        columns=columns,
        results=result_fields(task, options=options.task_options, embedding_size=info.embedding_size),
        load=load,
        task_options=options.task_options,
        device=options.device,
        gpu_share=min(1.0, options.num_gpus_per_actor) or 1.0,
        dtype=options.dtype,
        max_tokens_per_batch=options.max_tokens_per_batch,
        window_rows=options.window_rows,
        prefix=options.prefix,
    )
    return stage, info


def add_scoring(rows: Dataset, stage: Stage, pool: Pool, scorer: type, *arguments: Any, watch: Any = None) -> Dataset:
    """`rows` with the steps that score them.

    scorer: a `map_batches` class made in each actor of `pool` from the stage and `arguments`. watch: the job's
    `actors.watch` actor, None where nobody watches.
    """
    stage = dataclasses.replace(stage, num_threads=pool.num_threads)
    if pool.tokenizers:
        rows = rows.map_batches(
            TokenizeRows,
            fn_constructor_args=(stage, watch),
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=pool.tokenizers),
            num_cpus=1,
        )
    return rows.map_batches(
        scorer,
        fn_constructor_args=(stage, *arguments),
        batch_size=None,
        batch_format="pyarrow",
        compute=pool.strategy,
        num_cpus=pool.declared_cpus,
        num_gpus=pool.gpus or None,
    )
