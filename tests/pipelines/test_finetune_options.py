"""Fine-tuning's options, schedule, masks, and the file that says what an output directory was begun with."""

import json
import traceback
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers
from labelled_rows import tagged
from ray.train.v2.api.exceptions import WorkerGroupError

from bigbird.checkpoint import load_model
from bigbird.errors import InputError
from bigbird.heads import BigBirdForMaskedLM, BigBirdForTokenClassification
from pipelines import finetune
from pipelines.finetuning.documents import find_labels
from pipelines.finetuning.formats import find_format
from pipelines.finetuning.metrics import LOSS, best_of, is_stale
from pipelines.finetuning.objective import Objective
from pipelines.finetuning.options import TrainingOptions
from pipelines.finetuning.plan import Job, plan_job
from pipelines.finetuning.run_file import claim
from pipelines.finetuning.token_rows import SCHEMA, TokenRow, from_table, to_table
from pipelines.finetuning.training import Run
from pipelines.scoring.actors.pool import Cluster
from pipelines.scoring.storage import locate


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"learning_rate": -1e-3}, "learning_rate is -0.001"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"warmup": 1.5}, "warmup is 1.5"),
        ({"warmup_steps": -1}, "warmup_steps is -1"),
        ({"warmup_steps": 5, "warmup": 0.5}, "warmup is 0.5 and warmup_steps 5: give one of them"),
        ({"mask_share": 0.0}, "mask_share is 0.0"),
        ({"tokens_per_step": 0}, "tokens_per_step is 0"),
        ({"max_tokens_per_batch": -5}, "max_tokens_per_batch is -5"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1"),
        ({"max_grad_norm": 0}, "max_grad_norm is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"lr_scheduler": "step"}, "lr_scheduler is 'step'"),
        ({"dtype": "float16"}, "dtype is 'float16'"),
    ],
)
def test_an_option_out_of_its_range_is_named(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        TrainingOptions(**options)


@pytest.mark.parametrize("name", ["num_workers", "cpus_per_worker", "save_every", "evaluate_every", "patience"])
def test_a_count_below_one_is_named(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} is 0, expected at least 1"):
        Job(task="masked-lm", model="m", train="t", held_out="e", output="o", **{name: 0})


def test_the_best_evaluation_is_that_of_the_metric_and_a_metric_by_which_nothing_is_chosen_is_refused(job: Job) -> None:
    history = [{"loss": 3.0, "f1": 0.1}, {"loss": 1.0, "f1": 0.2}, {"loss": 2.0, "f1": 0.7}, {"loss": 4.0, "f1": 0.7}]
    assert best_of(history, LOSS) is history[1]
    assert best_of(history, "f1") is history[2]
    assert is_stale(history, LOSS, 2)
    assert not is_stale(history, "f1", 2)
    assert is_stale(history, "f1", 1), "as good is not better"
    with pytest.raises(InputError, match="metric_for_best_model is 'f1', but without load_best or patience"):
        replace(job, metric_for_best_model="f1")
    with pytest.raises(InputError, match="'accuracy', expected one of eval_loss, f1, precision, recall"):
        plan_job(replace(job, metric_for_best_model="accuracy", load_best=True))


def test_what_a_task_has_no_use_for_is_named(job: Job) -> None:
    for change, complaint in (
        ({"max_length": 0}, "max_length is 0; the model reads 3 to 512"),
        ({"options": TrainingOptions(mask_share=0.5)}, "mask_share is 0.5, which is for masked-lm alone"),
        ({"task": "masked-lm", "scheme": "io"}, "scheme is 'io', which is for token-classification alone"),
    ):
        with pytest.raises(InputError, match=complaint):
            plan_job(replace(job, **change))


@pytest.mark.parametrize(
    ("given", "nodes", "fits"),
    [
        ({"num_workers": 3}, [{"CPU": 2.0}], 2),
        ({"num_workers": 2, "cpus_per_worker": 3}, [{"CPU": 4.0}, {"CPU": 2.0}], 1),
        ({"use_gpu": True}, [{"CPU": 8.0}], 0),
    ],
)
def test_workers_that_no_node_holds_are_refused(job: Job, given: Any, nodes: Any, fits: int) -> None:
    with pytest.raises(InputError, match=f"{given.get('num_workers', 1)} workers of .* the cluster holds {fits}"):
        finetune.refuse_what_never_fits(replace(job, **given), Cluster(nodes=nodes))
    finetune.refuse_what_never_fits(replace(job, **given), Cluster(nodes=nodes, growth=[{"CPU": 8.0, "GPU": 1.0}] * 3))
    finetune.refuse_what_never_fits(replace(job, **given), Cluster(nodes=[]))


def test_what_stopped_a_worker_is_told_by_its_first_cause(monkeypatch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(job: Job) -> None:
        try:
            (Path("/nowhere") / "x").open()
        except OSError as error:
            raise WorkerGroupError(f"[Rank 0]:\n{traceback.format_exc()}", {0: error}) from None

    monkeypatch.setattr(finetune, "finetune", fails)
    assert finetune.main(["--task", "masked-lm", "--model", "m", "--train", "t", "--eval", "e", "--output", "o"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "bigbird-finetune: failed: FileNotFoundError: [Errno 2] No such file or directory: '/nowhere/x'"
    assert said[-1].endswith("start it again with the same command to continue")


def test_a_folder_of_labelled_rows_may_hold_other_files_and_a_glob_names_some(job: Job) -> None:
    folder = Path(job.train).parent / "dataset"
    folder.mkdir()
    (folder / "README.md").write_text("what is here")
    Path(job.train).rename(folder / "train-0.parquet")
    one, other = (plan_job(replace(job, train=str(folder / name))) for name in ("", "*.parquet"))
    assert one.counts["train"].documents == 30
    assert one == other
    (folder / "b.jsonl").write_text("{}")
    with pytest.raises(InputError, match=r"b\.jsonl' is no \.parquet, .*; labelled rows are read from Parquet"):
        plan_job(replace(job, train=str(folder)))


def test_a_bad_option_on_the_command_line_ends_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    command = "--task masked-lm --model m --train t --eval e --output o --epochs 0"
    assert finetune.main(command.split()) == 2
    assert capsys.readouterr().err == "bigbird-finetune: epochs is 0.0, expected a number above 0\n"


@pytest.mark.parametrize("name", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [{"warmup": 0.1}, {"warmup_steps": 7}, {"warmup": 0.0}])
def test_the_rate_is_that_of_transformers_schedule(name: Any, warmup: dict[str, Any]) -> None:
    options = TrainingOptions(learning_rate=2e-3, lr_scheduler=name, **warmup)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2e-3)
    kind = "constant_with_warmup" if name == "constant" else name
    num_warmup = warmup.get("warmup_steps", int(np.ceil(50 * warmup.get("warmup", 0))))
    schedule = transformers.get_scheduler(kind, optimizer, num_warmup, 50)
    for step in range(50):
        assert options.rate(step, 50) == pytest.approx(schedule.get_last_lr()[0], abs=1e-12), step
        optimizer.step()
        schedule.step()


def test_a_rate_that_is_not_given_grows_as_models_get_narrower() -> None:
    assert TrainingOptions().settled(768).learning_rate == pytest.approx(5e-5)
    assert TrainingOptions().settled(128).learning_rate == pytest.approx(1e-3, rel=0.02)
    assert TrainingOptions(learning_rate=1e-4).settled(128).learning_rate == 1e-4


def token_row(key: str, ids: Sequence[int], targets: Sequence[int] = ()) -> TokenRow:
    row = {"key": key, "ids": ids, "token_type_ids": [0] * len(ids), "lengths": [len(ids)], "targets": targets}
    return from_table(pa.Table.from_pylist([row], schema=SCHEMA))[0]


def test_rows_come_out_of_their_table_as_they_went_in_and_take_few_bytes_a_token() -> None:
    rows = [token_row(f"{number:012d}", range(number, number + 3000), range(number)) for number in range(20)]
    tables = [to_table(rows[:7]), to_table(rows[7:])]
    table = pa.concat_tables(tables).slice(1)  # chunks, the first of which begins in the middle
    tracemalloc.start()
    found = from_table(table)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [(row.key, row.ids.tolist(), row.token_type_ids.tolist(), row.lengths.tolist(), row.targets.tolist())
            for row in found] == [tuple(row.values()) for row in table.to_pylist()]  # fmt: skip
    assert held < 8 * sum(len(row.ids) for row in found)


def test_of_hidden_tokens_four_in_five_are_masked_and_one_in_ten_is_drawn(tiny_checkpoint: Any) -> None:
    model = load_model(tiny_checkpoint(BigBirdForMaskedLM))
    objective = Objective(model, "masked-lm", TrainingOptions(mask_share=0.5), mask_token_id=6)
    ids = tuple(range(10, 510))
    row = token_row("0123456789ab", ids)
    kinds = {"mask": 0, "same": 0, "drawn": 0}
    for step in range(40):
        for place, shown in objective._hidden(row, step).items():
            kinds["mask" if shown == 6 else "same" if shown == ids[place] else "drawn"] += 1
    total = sum(kinds.values())
    assert total == 40 * 249
    assert kinds["mask"] / total == pytest.approx(0.8, abs=0.02)
    assert kinds["same"] / total == pytest.approx(0.1, abs=0.02)


def test_held_out_rows_are_measured_without_dropout(tiny_checkpoint: Any) -> None:
    checkpoint = tiny_checkpoint(BigBirdForTokenClassification, num_labels=3, hidden_dropout_prob=0.5)
    model, options = load_model(checkpoint, dtype=torch.float32), TrainingOptions(learning_rate=1e-3)
    ids = tuple(range(10, 50))
    row = token_row("ab", ids, [i % 3 for i in ids])
    found = Run(Objective(model.train(), "token-classification", options, None), [row], options).evaluate([row])
    expected = load_model(checkpoint, dtype=torch.float32).eval()(
        torch.tensor([ids]), labels=torch.tensor([[i % 3 for i in ids]])
    )
    assert found == pytest.approx(expected.loss.item(), rel=1e-5)


def test_a_frozen_encoder_stays_as_it_was_and_the_head_learns(tiny_checkpoint: Any) -> None:
    model = load_model(tiny_checkpoint(BigBirdForTokenClassification, num_labels=3), dtype=torch.float32)
    options = TrainingOptions(learning_rate=1e-2, freeze_encoder=True, epochs=3, warmup=0)
    row = token_row("ab", [4, 10, 11, 5], [0, 1, 2, 0])
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    run = Run(Objective(model, "token-classification", options, None), [row], options)
    while not run.is_finished:
        run.advance()
    changed = {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    assert changed == {"classifier.weight", "classifier.bias"}


def test_numbers_as_labels_are_in_the_order_of_numbers() -> None:
    rows = [{"text": str(n), "label": n} for n in (10, 9, 2)]
    form = find_format(rows, "text-classification", None)
    found = [form.document(row, "train") for row in rows]
    assert find_labels(found, "text-classification")[0] == ["2", "9", "10"]
    several = [{"text": "a", "label": ["10", "9"]}, {"text": "b", "label": ["2"]}]
    assert find_labels(several, "text-classification")[0] == ["2", "9", "10"]


@pytest.fixture
def job(tiny_checkpoint: Any, tmp_path: Path) -> Job:
    for part, start in (("train", 0), ("eval", 60)):
        pq.write_table(pa.Table.from_pylist(tagged(90)[start : start + 30]), tmp_path / f"{part}.parquet")
    paths = {"train": str(tmp_path / "train.parquet"), "held_out": str(tmp_path / "eval.parquet")}
    model = str(tiny_checkpoint(BigBirdForMaskedLM))
    options = TrainingOptions(learning_rate=1e-3)
    return Job(task="token-classification", model=model, output=str(tmp_path / "out"), options=options, **paths)


def test_an_output_is_gone_on_with_only_by_the_run_that_began_it(job: Job, tiny_checkpoint: Any) -> None:
    output, plan = locate(job.output), plan_job(job)
    claim(output, job, plan)
    claim(output, replace(job, num_workers=2), plan)
    with pytest.raises(InputError, match=r"learning_rate was 0\.001, is 0\.1"):
        claim(output, replace(job, options=replace(job.options, learning_rate=0.1)), plan)
    with pytest.raises(InputError, match="labels"):
        claim(output, job, replace(plan, labels=tuple(reversed(plan.labels))))
    with pytest.raises(InputError, match="data"):
        claim(output, job, replace(plan, fingerprint="other"))
    with pytest.raises(InputError, match="model"):
        claim(output, job, plan_job(replace(job, model=str(tiny_checkpoint(BigBirdForMaskedLM, seed=7)))))
    with pytest.raises(InputError, match="task"):
        claim(output, replace(job, task="masked-lm"), plan)
    assert json.loads((Path(output.path) / "training" / "run.json").read_text())["learning_rate"] == 0.001


def test_an_output_with_files_of_something_else_is_refused_before_ray_starts(
    job: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(job.output).mkdir()
    (Path(job.output) / "config.json").write_text("{}")
    command = f"--task {job.task} --model {job.model} --train {job.train} --eval {job.held_out} --output {job.output}"
    assert finetune.main(command.split()) == 2
    assert "holds 'config.json' and no run of this command" in capsys.readouterr().err


@pytest.mark.parametrize(("accuracy", "said"), [(0.63, True), (0.9, False)])
def test_a_result_near_the_majority_class_is_said_to_be_near_it(accuracy: float, said: bool) -> None:
    text = finetune.hardly_learned({"accuracy": accuracy, "majority_accuracy": 0.62})
    assert (text is not None) == said
