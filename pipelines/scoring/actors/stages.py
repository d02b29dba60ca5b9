"""The steps of Ray Data that score rows, the same ones for a job and for a pipeline.

rows -> TokenizeRows (CPU workers, where GPUs score) -> the scorer (a pool of actors)
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from ray.data import ActorPoolStrategy, Dataset

from bigbird.predictors.tasks import check_call
from pipelines.scoring.actors.pool import Pool, ScoreOptions
from pipelines.scoring.actors.score_rows import Stage, StagedScore
from pipelines.scoring.actors.tokenize_rows import TokenizeRows
from pipelines.scoring.checks import ModelInfo, held_together, with_encoder
from pipelines.scoring.schemas import result_fields
from pipelines.scoring.scores import Score


def make_stage(
    scores: Sequence[Score], options: ScoreOptions, *, load: Callable[..., Any], inspect: Callable[..., ModelInfo]
) -> tuple[Stage, ModelInfo]:
    """What an actor needs to score rows, and what is known of its models, taken together.

    `load` makes a predictor in an actor (`actors.score_rows.load_predictor`), `inspect` describes its checkpoint
    beforehand (`pipelines.scoring.checks.inspect_model`). Raises InputError or CheckpointError: an unknown task, a
    model without its head, options that the model cannot meet.
    """
    staged, models = [], []
    for score in scores:
        columns = options.columns.of_task(score.task)
        check_call(score.task, score.options, options.max_tokens_per_batch, options.device)
        model = inspect(score.task, score.model, options.dtype, score.options)
        if len(scores) > 1:
            model = with_encoder(model, options.dtype)
        models.append(model)
        staged.append(
            StagedScore(
                name=score.name,
                task=score.task,
                model=score.model,
                options=score.options,
                columns=columns,
                results=result_fields(score.task, options=score.options, embedding_size=model.embedding_size),
                digest=model.digest,
                location=model.location,
                encoder=model.encoder,
            )
        )
    stage = Stage(
        scores=tuple(staged),
        load=load,
        device=options.device,
        gpu_share=min(1.0, options.num_gpus_per_actor) or 1.0,
        dtype=options.dtype,
        max_tokens_per_batch=options.max_tokens_per_batch,
        window_rows=options.window_rows,
        prefix=options.prefix,
    )
    return stage, held_together(models)


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
