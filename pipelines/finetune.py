"""Fine-tune a checkpoint on labelled Parquet with Ray Train, on one worker or many.

    bigbird-finetune --task token-classification --model checkpoints/fill-mask \\
        --train train.parquet --eval eval.parquet --output my-tagger

The output directory is a Hugging Face checkpoint with a model card; `pipelines.score`, `serving` and transformers load
it. Start the same command again after whatever stopped it: it goes on from its last state, and ends with the weights
it would have had. Exit status as in `pipelines.score`: 0 done, 1 stopped on the way, 2 refused before it started.
"""

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import ray
import torch
from ray import train
from ray.train.torch import TorchTrainer

from bigbird.config import BigBirdConfig
from bigbird.errors import BigBirdError, InputError
from bigbird.loading.hub import resolve
from pipelines.command_line import DONE, REFUSED, STOPPED, Parser, say, say_stopped
from pipelines.finetuning.documents import TASKS
from pipelines.finetuning.folder import Folder
from pipelines.finetuning.metrics import LOSS, best_of, measure
from pipelines.finetuning.model_card import write_card
from pipelines.finetuning.options import TrainingOptions
from pipelines.finetuning.plan import Job, labelled_files, new_model, plan_job, read_documents
from pipelines.finetuning.run_file import claim, is_begun
from pipelines.finetuning.worker import STATE, ToTokenRows, save_model, work
from pipelines.ray_cluster import join_ray
from pipelines.scoring.actors.pool import Cluster, num_fitting
from pipelines.scoring.checks import location_of
from pipelines.scoring.failures import explain
from pipelines.scoring.inputs.units import PARQUET_SUFFIXES
from pipelines.scoring.inputs.unreadable import ChangedInputError
from pipelines.scoring.storage import locate

PROG = "bigbird-finetune"

_HELP = """\
examples:
  bigbird-finetune --task token-classification --model checkpoints/fill-mask --train train.parquet \\
      --eval eval.parquet --output my-tagger
      columns `text` and `entities` ({start, end, label} in characters), or `tokens` and `ner_tags`
  bigbird-finetune ... --num-workers 4 --use-gpu
      a step shared by four GPUs; the same command goes on after whatever stopped it

exit codes:
  0  done
  1  stopped on the way: the same command goes on from the last state
  2  refused, in one line, before anything started
"""


def finetune(job: Job) -> dict[str, float]:
    """Run the job to its end and write the checkpoint; returns the held-out figures.

    Raises InputError or CheckpointError before anything starts, ChangedInputError and ray.train.TrainingFailedError on
    the way.
    """
    output, named = locate(job.output), job
    directory = resolve(job.model)
    # Workers run in directories of their own, and take a hub model at the revision that was found here.
    job = replace(
        job,
        model=location_of(job.model, directory),
        train=_absolute(job.train),
        held_out=_absolute(job.held_out),
        output=_absolute(job.output),
        options=job.options.settled(BigBirdConfig.from_pretrained(directory).hidden_size),
    )
    plan = plan_job(job)
    is_begun(output, job, plan)  # refused before Ray starts
    if plan.unmeasured:
        print(f"no evaluation row has the label {', '.join(plan.unmeasured)}: nothing is measured of it", flush=True)
    # The workers say how far they are. Ray Train asks the state API every second, and complains where there is none.
    join_ray(log_to_driver=True, include_dashboard=True)
    refuse_what_never_fits(job, Cluster.running())
    claim(output, job, plan)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False  # some seconds' work, and many lines
    # Made before the workers take their CPUs: on a small machine, none would be left to make them with.
    datasets: dict[str, Any] = {
        part: ray.data.read_parquet(
            paths, filesystem=filesystem, file_extensions=[suffix.removeprefix(".") for suffix in PARQUET_SUFFIXES]
        )
        .map_batches(ToTokenRows(job, plan, part), batch_format="pyarrow")
        .materialize()
        for part, (filesystem, paths) in (("train", labelled_files(job.train)), ("eval", labelled_files(job.held_out)))
    }
    for part, dataset in datasets.items():
        if (found := dataset.count()) != (checked := plan.counts[part].rows):
            raise ChangedInputError(f"{part} has {found:,} rows of tokens, {checked:,} when it was checked")
    trainer = TorchTrainer(
        work,
        train_loop_config={"job": job, "plan": plan},
        scaling_config=train.ScalingConfig(
            num_workers=job.num_workers,
            use_gpu=job.use_gpu,
            resources_per_worker={"CPU": job.cpus_per_worker, **({"GPU": 1} if job.use_gpu else {})},
        ),
        run_config=train.RunConfig(
            name="states",
            storage_path=output.child("training").path,
            storage_filesystem=output.filesystem,
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
    model.load_state_dict(state["best"] or state["model"])
    history = state["history"]
    measured = best_of(history, job.metric_for_best_model) if state["best"] else history[-1]
    figures = {LOSS: measured["loss"]}
    if job.task == "causal-lm":
        figures["perplexity"] = math.exp(figures[LOSS])
    folder = Folder(output)
    save_model(model.eval(), job, folder.path)
    figures |= measure(job.task, str(folder.path), read_documents(job.held_out, "eval", job.task)[0])
    (folder.path / "metrics.json").write_text(json.dumps(figures, indent=1) + "\n")
    card = replace(job, model=named.model, output=output.name)
    write_card(folder.path, card, plan, state["losses"], history, figures)
    folder.save()
    return figures


def refuse_what_never_fits(job: Job, cluster: Cluster) -> None:
    """Raises InputError for workers that the nodes have no room for, nor those that an autoscaler may add: the run
    would wait for ever. Nodes of a cluster without any may join by somebody's hand."""
    nodes = [*cluster.nodes, *(cluster.growth or ())]
    needs = {"CPU": job.cpus_per_worker, "GPU": int(job.use_gpu), "memory": 0}
    fits = sum(num_fitting(node, needs) for node in nodes)
    if nodes and job.num_workers > fits:
        each = f"{needs['CPU']} CPUs and {needs['GPU']} GPUs"
        raise InputError(f"{job.num_workers} workers of {each} each: the cluster holds {fits}")


def _absolute(path: str) -> str:
    return path if "://" in path else locate(path).path


def parse(argv: Sequence[str] | None) -> Job:
    parser = Parser(PROG, (__doc__ or "").split("\n")[0], _HELP)
    parser.add_argument("--task", required=True, choices=TASKS, help="what the head learns")
    parser.add_argument("--model", required=True, help="directory, hub id or URI of the checkpoint to start from")
    parser.add_argument("--train", required=True, metavar="PARQUET", help="labelled rows to learn from")
    parser.add_argument("--eval", required=True, metavar="PARQUET", dest="held_out", help="labelled rows held out")
    parser.add_argument("--output", required=True, metavar="DIR", help="directory or URI; the same one continues a run")
    parser.add_argument("--max-length", type=int, help="tokens a row may have; default: what the model reads")
    parser.add_argument("--scheme", choices=["bio", "io"], default="bio", help="labels of entities: B-X and I-X, or X")
    parser.add_argument("--num-workers", type=int, default=1, help="processes that share a step; default: 1")
    parser.add_argument("--use-gpu", action="store_true", help="a GPU for each worker")
    parser.add_argument("--cpus-per-worker", type=int, default=1, help="CPUs, and threads, of a worker; default: 1")
    parser.add_argument("--save-every", type=int, default=100, metavar="STEPS", help="default: 100")
    parser.add_argument("--evaluate-every", type=int, default=100, metavar="STEPS", help="default: 100")
    parser.add_argument(
        "--patience", type=int, help="stop after so many evaluations without a better one; keep the best"
    )
    parser.add_argument("--load-best", action="store_true", help="end with the weights of the best evaluation")
    chosen_by = "what is best, for --load-best and --patience: eval_loss, or a figure of metrics.json such as f1"
    parser.add_argument("--metric-for-best-model", default=LOSS, metavar="NAME", help=f"{chosen_by}; default: {LOSS}")
    parser.add_argument("--max-failures", type=int, default=2, help="deaths of a worker that a run survives")
    defaults = TrainingOptions()
    hints = get_type_hints(TrainingOptions)
    for name, default in asdict(defaults).items():
        flag = "--" + name.replace("_", "-")
        if isinstance(default, bool):
            parser.add_argument(flag, action="store_true", help="default: off")
            continue
        kind = next(kind for kind in (int, float, str) if kind in (hints[name], *get_args(hints[name])) or kind is str)
        choices = get_args(hints[name]) if kind is str else None
        shown = "by the model's width" if name == "learning_rate" else default
        parser.add_argument(flag, type=kind, default=default, choices=choices, help=f"default: {shown}")
    values = vars(parser.parse_args(argv))
    options = TrainingOptions(**{name: values.pop(name) for name in asdict(defaults)})
    return Job(options=options, **values)


def hardly_learned(figures: dict[str, float]) -> str | None:
    """A sentence where a result is hardly better than no model: within 0.02 of the majority class or of chance."""
    for baseline in ("majority_accuracy", "chance"):
        if baseline in figures and figures["accuracy"] < figures[baseline] + 0.02:
            found = f"accuracy {figures['accuracy']:.3f} is hardly above {figures[baseline]:.3f}, {baseline}"
            return f"{found}: try more --epochs, another --learning-rate, or more rows"
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; the exit status is said in the module's docstring."""
    try:
        figures = finetune(parse(argv))
    except BigBirdError as error:
        say(PROG, error)
        return REFUSED
    except Exception as error:  # Ray's own have no common base; the person needs the first cause
        for line in explain(error):
            say(PROG, line)
        return STOPPED
    except (KeyboardInterrupt, SystemExit) as error:
        return say_stopped(PROG, error)
    print(", ".join(f"{name} {value:.4f}" for name, value in figures.items()))
    if said := hardly_learned(figures):
        print(said)
    return DONE


if __name__ == "__main__":
    sys.exit(main())
