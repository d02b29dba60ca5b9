"""Fine-tuning beyond one process: the loss is the head's and transformers', on one worker or two, killed or not."""

import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
import ray
import torch
from labelled_rows import choices, questions, tagged
from object_store import s3_bucket
from ray_session import start_ray

from bigbird import BigBirdConfig
from bigbird.checkpoint import load_model
from bigbird.errors import InputError
from bigbird.heads import (
    BigBirdForMaskedLM,
    BigBirdForMultipleChoice,
    BigBirdForQuestionAnswering,
    BigBirdForTokenClassification,
)
from bigbird.tokenization.tokenizer import BigBirdTokenizer
from pipelines.finetune import finetune
from pipelines.finetuning.documents import check_documents, find_labels
from pipelines.finetuning.metrics import answer_figures, figures, measure
from pipelines.finetuning.objective import Objective
from pipelines.finetuning.options import TrainingOptions
from pipelines.finetuning.plan import Job, new_model, plan_job
from pipelines.finetuning.token_rows import ToRows
from pipelines.finetuning.training import Run
from pipelines.scoring.storage import locate, write_whole

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def to_rows(task: Any, tokenizer: BigBirdTokenizer, max_length: int = 512, **more: Any) -> ToRows:
    config = BigBirdConfig(vocab_size=tokenizer.vocab_size, max_position_embeddings=512)
    return ToRows(task=task, tokenizer=tokenizer, config=config, max_length=max_length, **more)


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer_dir: Path) -> BigBirdTokenizer:
    return BigBirdTokenizer.from_pretrained(tiny_tokenizer_dir)


def test_an_answer_lies_on_its_tokens_in_every_window_that_holds_it(tokenizer: BigBirdTokenizer) -> None:
    (document,) = questions(1)
    document["context"] += " of blocks and tokens" * 20
    rows, counts = to_rows("question-answering", tokenizer, max_length=64).rows([document])
    assert counts.rows == len(rows) > 1
    first, last = map(int, rows[0].targets)
    assert tokenizer.decode(list(rows[0].ids[first : last + 1])).strip() == "Zürich"
    assert rows[-1].targets.tolist() == [0, 0]


def test_pairs_are_trained_with_the_token_types_that_the_tokenizer_gives(tiny_tokenizer_dir: Path) -> None:
    (document,) = choices(1)
    for names, typed in ((["input_ids", "attention_mask"], 0), (["input_ids", "token_type_ids", "attention_mask"], 1)):
        tokenizer = BigBirdTokenizer.from_pretrained(tiny_tokenizer_dir, model_input_names=names)
        (row,), _ = to_rows("multiple-choice", tokenizer).rows([document])
        pairs = tokenizer([document["prompt"]] * 3, document["choices"], return_token_type_ids=bool(typed))
        expected = pairs.get("token_type_ids") or [[0] * len(ids) for ids in pairs["input_ids"]]
        assert max(row.token_type_ids) == typed
        assert list(row.token_type_ids) == [number for types in expected for number in types]


def test_an_answer_that_cuts_a_token_is_given_the_whole_token_and_counted(tokenizer: BigBirdTokenizer) -> None:
    document = {"question": "who?", "context": "blocks", "answers": {"text": ["lock"], "answer_start": [1]}}
    (row,), counts = to_rows("question-answering", tokenizer).rows([document])
    assert counts.cut_tokens == 1
    assert row.targets[0] >= row.token_type_ids.tolist().index(1)


@pytest.mark.parametrize(
    ("task", "change", "complaint"),
    [
        ("question-answering", {"answers": {"text": ["Como"], "answer_start": [0]}}, "the answer is 'Como'"),
        ("question-answering", {"question": " "}, "row 0: question is empty"),
        ("multiple-choice", {"label": 3}, "label is 3, expected the index of one of 3 choices"),
        ("multiple-choice", {"choices": ["a", "", "c"]}, "a choice is empty"),
        ("text-classification", {"label": ""}, "label '' is empty"),
        ("text-classification", {"label": float("nan")}, "expected a finite number"),
    ],
)
def test_a_bad_row_is_named(task: Any, change: dict[str, Any], complaint: str) -> None:
    rows = {"question-answering": questions, "multiple-choice": choices}
    (document,) = rows[task](1) if task in rows else [{"text": "a"}]
    with pytest.raises(InputError, match=complaint):
        check_documents([{**document, **change}], task, "train")


def test_answers_are_compared_as_squad_does() -> None:
    assert answer_figures([["the Lake Como"], []], ["lake como!", ""]) == {"exact_match": 1.0, "f1": 1.0}
    assert answer_figures([["lake of Como", "Ohrid"]], ["Como"]) == {"exact_match": 0.0, "f1": pytest.approx(0.5)}


def test_the_figures_of_choices_stand_beside_chance() -> None:
    records = [{"best": 0}, {"best": 0}, {"best": 2}]
    assert figures("multiple-choice", choices(3), records) == pytest.approx({"accuracy": 2 / 3, "chance": 1 / 3})


def test_the_loss_of_choices_and_answers_is_that_of_the_padded_forward(
    tiny_checkpoint: Any, tokenizer: BigBirdTokenizer
) -> None:
    model = load_model(tiny_checkpoint(BigBirdForMultipleChoice), dtype=torch.float32).eval()
    rows, _ = to_rows("multiple-choice", tokenizer).rows(choices(2))
    expected = torch.zeros(())
    for row in rows:
        width, parts = max(row.lengths), torch.tensor(row.ids).split(row.lengths.tolist())
        types = torch.tensor(row.token_type_ids.tolist()).split(row.lengths.tolist())
        ids, kinds, mask = (
            torch.stack([torch.nn.functional.pad(p, (0, width - len(p))) for p in values])[None]
            for values in (parts, types, [torch.ones_like(p) for p in parts])
        )
        expected += model(ids, mask, token_type_ids=kinds, labels=torch.tensor([int(row.targets[0])])).loss
    found = Objective(model, "multiple-choice", TrainingOptions(), None).loss_sum(rows, 0)
    torch.testing.assert_close(found, expected)

    model = load_model(tiny_checkpoint(BigBirdForQuestionAnswering), dtype=torch.float32).eval()
    rows, _ = to_rows("question-answering", tokenizer).rows(questions(2))
    expected = torch.zeros(())
    for row in rows:
        first, last = (torch.tensor([int(place)]) for place in row.targets)
        expected += model(torch.tensor(row.ids.tolist())[None], start_positions=first, end_positions=last).loss
    found = Objective(model, "question-answering", TrainingOptions(), None).loss_sum(rows, 0)
    torch.testing.assert_close(found, expected)


def test_fifty_steps_have_the_losses_of_a_transformers_training_loop(
    tiny_checkpoint: Any, tokenizer: BigBirdTokenizer
) -> None:
    transformers = pytest.importorskip("transformers")
    options = TrainingOptions(epochs=30, learning_rate=3e-3, tokens_per_step=400, weight_decay=0.1)
    documents = tagged(24)
    labels, _ = find_labels(documents, "token-classification")
    rows, _ = to_rows("token-classification", tokenizer, labels=labels).rows(documents)
    assert max(len(row.ids) for row in rows) > 112  # so some of them are sparse
    checkpoint = tiny_checkpoint(BigBirdForTokenClassification, num_labels=3, **NO_DROPOUT)
    run = Run(
        Objective(load_model(checkpoint, dtype=torch.float32), "token-classification", options, None), rows, options
    )
    theirs = transformers.BigBirdForTokenClassification.from_pretrained(checkpoint).train()
    groups = [
        {"params": [p for p in theirs.parameters() if (p.ndim > 1) == decays], "weight_decay": 0.1 * decays}
        for decays in (True, False)
    ]
    optimizer = torch.optim.AdamW(groups, lr=options.learning_rate)
    schedule = transformers.get_linear_schedule_with_warmup(
        optimizer, math.ceil(options.warmup * len(run.steps)), len(run.steps)
    )
    for step in range(50):
        batch = [run.rows[index] for index in run.steps[step]]
        total = sum(target >= 0 for row in batch for target in row.targets)
        mean = 0.0
        for row in batch:  # one at a time: padding changes what transformers computes
            theirs.bert.set_attention_type("block_sparse")  # which it forgets after a short row
            logits = theirs(torch.tensor(row.ids.tolist())[None]).logits[0]
            targets = torch.tensor(row.targets).long()
            loss = torch.nn.functional.cross_entropy(logits, targets, reduction="sum") / total
            loss.backward()
            mean += loss.item()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), options.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        assert run.advance() == pytest.approx(mean, abs=1e-3)
    assert run.losses[49] < run.losses[0] / 4


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # a process that has ended
        return b""


def _is_ours(process: Path) -> bool:
    """Whether a process in /proc descends from this one: others may have a Ray on this machine."""
    while process.name not in ("0", "1", ""):
        if process.name == str(os.getpid()):
            return True
        process = Path("/proc") / _read(process / "stat").decode().rpartition(")")[2].split(maxsplit=2)[1]
    return False


@pytest.fixture(scope="module")
def s3() -> Iterator[Callable[[str], str]]:
    with s3_bucket() as uri:
        yield uri


@pytest.fixture(scope="module")
def three_cpus(s3: Callable[[str], str]) -> Iterator[None]:
    start_ray(3)
    yield
    ray.shutdown()


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")  # Ray Train copies Ray Data's context, deprecated fields and all
def test_two_workers_of_which_one_is_killed_end_where_one_ends(
    three_cpus: None, tiny_checkpoint: Any, tmp_path: Path
) -> None:
    rows = tagged(40)
    pq.write_table(pa.Table.from_pylist(rows[:32]), tmp_path / "train.parquet")
    pq.write_table(pa.Table.from_pylist(rows[32:]), tmp_path / "eval.parquet")
    options = TrainingOptions(epochs=15, learning_rate=1e-3, tokens_per_step=300)
    job = Job(
        task="token-classification",
        model=str(tiny_checkpoint(BigBirdForMaskedLM, **NO_DROPOUT)),
        train=str(tmp_path / "train.parquet"),
        held_out=str(tmp_path / "eval.parquet"),
        output=str(tmp_path / "out"),
        options=options,
        num_workers=2,
        save_every=5,
        evaluate_every=1000,
    )
    plan = plan_job(job)
    tokenizer = BigBirdTokenizer.from_pretrained(job.model)
    alone = Run(
        Objective(new_model(job, plan), job.task, options, None),
        to_rows(job.task, tokenizer, labels=plan.labels).rows(rows[:32])[0],
        options,
    )
    while not alone.is_finished:
        alone.advance()

    killed: list[int] = []

    def kill_one_worker() -> None:
        while not list((tmp_path / "out" / "training").rglob("state.pt")):
            time.sleep(0.05)
        workers = [path.parent for path in Path("/proc").glob("[0-9]*/cmdline") if b"TrainWorker" in _read(path)]
        killed.extend(int(worker.name) for worker in workers if _is_ours(worker))
        os.kill(killed[0], signal.SIGKILL)

    threading.Thread(target=kill_one_worker, daemon=True).start()
    finetune(replace(job, max_failures=3))
    assert killed
    # Losses, not weights: where a gradient is next to nothing, AdamW makes a whole step of its rounding.
    last = max((tmp_path / "out" / "training").rglob("state.pt"), key=lambda path: path.stat().st_mtime)
    assert torch.load(last, weights_only=True)["losses"] == pytest.approx(alone.losses, abs=1e-3)


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")  # as above
def test_a_run_in_an_object_store_stops_when_its_figure_does_not_rise_and_keeps_the_best(
    three_cpus: None, s3: Callable[[str], str], tiny_checkpoint: Any, tmp_path: Path
) -> None:
    rows, store = tagged(40), locate(s3("tuning"))
    for path in tiny_checkpoint(BigBirdForMaskedLM, **NO_DROPOUT).iterdir():
        write_whole(store.child(f"model/{path.name}"), path.read_bytes())
    for part, held in (("train", rows[:32]), ("eval", rows[32:])):
        pq.write_table(pa.Table.from_pylist(held), store.child(f"{part}.parquet").path, filesystem=store.filesystem)
    job = Job(
        task="token-classification",
        model=s3("tuning/model"),
        train=s3("tuning/train.parquet"),
        held_out=s3("tuning/eval.parquet"),
        output=s3("tuning/out"),
        options=TrainingOptions(epochs=30, learning_rate=5e-3, tokens_per_step=300, warmup=0.1),
        num_workers=2,
        evaluate_every=50,
        patience=1,
        metric_for_best_model="f1",
    )
    measured = finetune(job)
    pafs.copy_files(store.child("out").path, str(tmp_path), store.filesystem)
    state = max(tmp_path.rglob("state.pt"), key=lambda path: torch.load(path, weights_only=True)["history"][-1]["step"])
    history = torch.load(state, weights_only=True)["history"]
    found = [entry["f1"] for entry in history]
    assert found[-1] <= max(found[:-1]) == measured["f1"] > 0, "it stopped, and the weights are the best ones"
    assert measured["eval_loss"] == history[found.index(max(found))]["loss"]
    assert measure(job.task, str(tmp_path), rows[32:])["f1"] == measured["f1"]
    assert json.loads((tmp_path / "metrics.json").read_text()) == measured
    assert list((tmp_path / "tensorboard").iterdir())
    with pytest.raises(InputError, match=r"patience was 1, is 3"):
        finetune(replace(job, patience=3))
