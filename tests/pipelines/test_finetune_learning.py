"""Every task learns from a few rows what its baseline does not know."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from labelled_rows import choices, classified, questions, tagged

from bigbird.heads import BigBirdForMaskedLM
from bigbird.predictors import load_predictor
from bigbird.tokenization.tokenizer import BigBirdTokenizer
from pipelines.finetuning.metrics import measure
from pipelines.finetuning.objective import Objective
from pipelines.finetuning.options import TrainingOptions
from pipelines.finetuning.plan import Job, make_rows, new_model, plan_job
from pipelines.finetuning.token_rows import TokenRow
from pipelines.finetuning.training import Run

ROWS = 66
TRAIN = 48


def learn(
    task: Any, rows: list[dict[str, Any]], encoder: Path, folder: Path
) -> tuple[dict[str, float], list[TokenRow], list[TokenRow]]:
    """What a worker does, in this process: the figures on held-out rows, and the rows of both sides."""
    for name, part in (("train", rows[:TRAIN]), ("eval", rows[TRAIN:])):
        pq.write_table(pa.Table.from_pylist(part), folder / f"{name}.parquet")
    options = TrainingOptions(epochs=30, learning_rate=3e-3, tokens_per_step=400)
    paths = {"train": str(folder / "train.parquet"), "held_out": str(folder / "eval.parquet")}
    job = Job(task=task, model=str(encoder), output=str(folder / "out"), options=options, **paths)
    plan = plan_job(job)
    model = new_model(job, plan)
    tokenizer = BigBirdTokenizer.from_pretrained(encoder)
    to_rows = make_rows(job, plan.labels, plan.problem_type, plan.max_length)
    train, held_out = (to_rows.rows(part)[0] for part in (rows[:TRAIN], rows[TRAIN:]))
    run = Run(Objective(model, task, options, tokenizer.mask_token_id), train, options)
    while not run.is_finished:
        run.advance()
    model.save_pretrained(folder / "out")
    (folder / "out" / "tokenizer.json").write_bytes((encoder / "tokenizer.json").read_bytes())
    figures = {"perplexity": math.exp(run.evaluate(held_out)), **measure(task, job.output, rows[TRAIN:])}
    return figures, train, held_out


@pytest.fixture(scope="module")
def encoder(tiny_checkpoint: Any) -> Path:
    path: Path = tiny_checkpoint(BigBirdForMaskedLM, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return path


@pytest.mark.parametrize(
    ("task", "rows", "figure", "least"),
    [
        ("token-classification", tagged(ROWS, lengths=2), "f1", 0.5),  # tags nothing: 0
        ("text-classification", classified(ROWS, ("north", "south", "east")), "accuracy", 0.9),  # always one: a third
        ("text-classification", classified(ROWS, ([], ["deep"], ["deep", "old"])), "macro_f1", 0.8),  # both: 0.65
        ("multiple-choice", choices(ROWS), "accuracy", 0.9),  # chance: a third
        ("question-answering", questions(ROWS), "exact_match", 0.5),  # one lake: a sixth
    ],
)
def test_a_head_finds_more_than_its_baseline(
    task: str, rows: list[dict[str, Any]], figure: str, least: float, encoder: Path, tmp_path: Path
) -> None:
    figures, *_ = learn(task, rows, encoder, tmp_path)
    assert figures[figure] > least


def test_a_number_is_nearer_than_the_mean(encoder: Path, tmp_path: Path) -> None:
    figures, *_ = learn("text-classification", classified(ROWS, (0.0, 1.0, 2.0)), encoder, tmp_path)
    assert figures["mean_squared_error"] < figures["mean_squared_error_of_the_mean"] / 2


@pytest.mark.parametrize(("task", "figure"), [("masked-lm", "pseudo_perplexity"), ("causal-lm", "perplexity")])
def test_a_language_model_expects_more_than_frequent_tokens(
    task: str, figure: str, encoder: Path, tmp_path: Path
) -> None:
    documents = [{"text": row["text"]} for row in tagged(ROWS, lengths=2)]
    figures, train, held_out = learn(task, documents, encoder, tmp_path)
    counts = Counter(token for row in train for token in row.ids[1:].tolist())
    seen = [token for row in held_out for token in row.ids[1:].tolist()]
    share = {token: (counts[token] + 1) / (counts.total() + 512) for token in set(seen)}
    unigram = math.exp(-sum(math.log(share[token]) for token in seen) / len(seen))
    assert figures[figure] < unigram / 2


def test_a_fine_tuned_causal_model_ends_its_texts(encoder: Path, tmp_path: Path) -> None:
    learn("causal-lm", [{"text": f"{n} reads block {n % 2}."} for n in range(100, 100 + ROWS)], encoder, tmp_path)
    (record,) = load_predictor("text-generation", tmp_path / "out")(["120 reads block"])
    assert record["generated_text"] in (" 0.", " 1.")
    assert record["finish_reason"] == "stop"
    transformers = pytest.importorskip("transformers")
    theirs = transformers.BigBirdForCausalLM.from_pretrained(tmp_path / "out", attention_type="original_full")
    prompt = BigBirdTokenizer.from_pretrained(encoder).encode("120 reads block")[:-1]
    assert theirs.generate(torch.tensor([prompt]), max_new_tokens=20)[0, -1] == 5  # [SEP]


@pytest.mark.parametrize(("bos", "eos"), [(1, 2), (2, 1)])  # google's files have both orders
def test_causal_rows_begin_with_cls_and_only_the_end_of_a_text_has_sep(
    bos: int, eos: int, tiny_checkpoint: Any, tmp_path: Path
) -> None:
    path = tiny_checkpoint(BigBirdForMaskedLM, bos_token_id=bos, eos_token_id=eos)
    pq.write_table(pa.table({"text": ["reads the block " * 9]}), tmp_path / "train.parquet")
    pq.write_table(pa.table({"text": ["another"]}), tmp_path / "eval.parquet")
    paths = {"train": str(tmp_path / "train.parquet"), "held_out": str(tmp_path / "eval.parquet")}
    job = Job(task="causal-lm", model=str(path), output=str(tmp_path / "out"), max_length=16, **paths)
    rows, _ = make_rows(job, (), None, 16).rows([{"text": "reads the block " * 9}])
    assert len(rows) > 1
    assert all(row.ids[0] == 4 for row in rows)
    assert [row.ids.tolist().count(5) for row in rows] == [0] * (len(rows) - 1) + [1]
    assert rows[-1].ids[-1] == 5
    found = new_model(job, plan_job(job)).generation_config
    assert (found.bos_token_id, found.eos_token_id, found.eos_token_ids) == (4, [5, eos], (5, eos))
