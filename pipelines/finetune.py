"""Fine-tune a checkpoint on labelled Parquet with Ray Train, on one worker or many.

    bigbird-finetune --task token-classification --model checkpoints/fill-mask \\
        --train train.parquet --eval eval.parquet --output my-tagger

The output directory is a Hugging Face checkpoint with a model card; `pipelines.score`, `serving` and transformers load
it. Start the same command again after whatever stopped it: it goes on from its last state, and ends with the weights
it would have had. Exit status as in `pipelines.score`: 0 done, 1 stopped on the way, 2 refused before it started.
"""

import json
import math
import shutil
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
from bigbird.errors import BigBirdError
from bigbird.loading.hub import resolve
from pipelines.command_line import DONE, REFUSED, STOPPED, Parser, say
from pipelines.finetuning.documents import TASKS
from pipelines.finetuning.metrics import measure
from pipelines.finetuning.model_card import write_card
from pipelines.finetuning.options import TrainingOptions
from pipelines.finetuning.plan import Job, new_model, plan_job, read_documents
from pipelines.finetuning.run_file import claim
from pipelines.finetuning.worker import STATE, ToTokenRows, lowest, work
from pipelines.ray_cluster import join_ray

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

OF_THE_MODEL = ("config.json", "generation_config.json", "model.safetensors.index.json")
"""Files that the trained model writes itself, where it has them; the others come along from the one before."""


def finetune(job: Job) -> dict[str, float]:
    """Run the job to its end and write the checkpoint; returns the held-out figures.

    Raises InputError or CheckpointError before anything starts, ray.train.TrainingFailedError on the way.
    """
    output = Path(job.output).resolve()
    named = job
    model = resolve(job.model).resolve()
    # Workers run in directories of their own.
    job = replace(
        job,
        model=str(model),
        train=str(Path(job.train).resolve()),
        held_out=str(Path(job.held_out).resolve()),
        output=str(output),
        options=job.options.settled(BigBirdConfig.from_pretrained(model).hidden_size),
    )
    plan = plan_job(job)
    claim(output, job, plan)
    if plan.unmeasured:
        print(f"no evaluation row has the label {', '.join(plan.unmeasured)}: nothing is measured of it", flush=True)
    # The workers say how far they are. Ray Train asks the state API every second, and complains where there is none.
    join_ray(log_to_driver=True, include_dashboard=True)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False  # some seconds' work, and many lines
    # Made before the workers take their CPUs: on a small machine, none would be left to make them with.
    datasets: dict[str, Any] = {
        part: ray.data.read_parquet(path)
        .map_batches(ToTokenRows(job, plan, part), batch_format="pyarrow")
        .materialize()
        for part, path in (("train", job.train), ("eval", job.held_out))
    }
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
    model.load_state_dict(state["best"] or state["model"])
    model.eval().save_pretrained(output)
    for file in Path(job.model).glob("*"):
        if file.suffix in (".json", ".model") and file.name not in OF_THE_MODEL:
            shutil.copyfile(file, output / file.name)
    measured = lowest(state["history"]) if state["best"] else state["history"][-1]
    figures = {"eval_loss": measured["loss"]}
    if job.task == "causal-lm":
        figures["perplexity"] = math.exp(figures["eval_loss"])
    figures |= measure(job.task, str(output), read_documents(job.held_out, "eval", job.task)[0])
    (output / "metrics.json").write_text(json.dumps(figures, indent=1) + "\n")
    card = replace(job, model=named.model, train=named.train, held_out=named.held_out)
    write_card(output, card, plan, state["losses"], state["history"], figures)
    return figures


def parse(argv: Sequence[str] | None) -> Job:
    parser = Parser(PROG, (__doc__ or "").split("\n")[0], _HELP)
    parser.add_argument("--task", required=True, choices=TASKS, help="what the head learns")
    parser.add_argument("--model", required=True, help="checkpoint directory to start from")
    parser.add_argument("--train", required=True, metavar="PARQUET", help="labelled rows to learn from")
    parser.add_argument("--eval", required=True, metavar="PARQUET", dest="held_out", help="labelled rows held out")
    parser.add_argument("--output", required=True, metavar="DIR", help="the checkpoint; the same one continues a run")
    parser.add_argument("--max-length", type=int, help="tokens a row may have; default: what the model reads")
    parser.add_argument("--scheme", choices=["bio", "io"], default="bio", help="labels of entities: B-X and I-X, or X")
    parser.add_argument("--num-workers", type=int, default=1, help="processes that share a step; default: 1")
    parser.add_argument("--use-gpu", action="store_true", help="a GPU for each worker")
    parser.add_argument("--cpus-per-worker", type=int, default=1, help="CPUs, and threads, of a worker; default: 1")
    parser.add_argument("--save-every", type=int, default=100, metavar="STEPS", help="default: 100")
    parser.add_argument("--evaluate-every", type=int, default=100, metavar="STEPS", help="default: 100")
    parser.add_argument(
        "--patience", type=int, help="stop after so many evaluations without a lower loss; keep the best"
    )
    parser.add_argument("--load-best", action="store_true", help="end with the weights of the lowest held-out loss")
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
    except train.TrainingFailedError as error:
        say(PROG, f"stopped: {error}; start the same command again to go on")
        return STOPPED
    except KeyboardInterrupt:
        say(PROG, "stopped; start the same command again to go on")
        return STOPPED
    print(", ".join(f"{name} {value:.4f}" for name, value in figures.items()))
    if said := hardly_learned(figures):
        print(said)
    return DONE


if __name__ == "__main__":
    sys.exit(main())
