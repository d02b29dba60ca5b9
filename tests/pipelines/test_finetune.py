"""Fine-tuning: labelled rows, steps that add up and go on, and the way from Parquet to a checkpoint that scores."""

import json
import os
import random
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from commands import run

from bigbird import BigBirdConfig, layers
from bigbird.checkpoint import load_model
from bigbird.errors import InputError
from bigbird.heads import BigBirdForCausalLM, BigBirdForMaskedLM, BigBirdForSequenceClassification
from bigbird.tokenization.tokenizer import BigBirdTokenizer
from pipelines.finetuning.documents import check_documents, check_split, find_labels, labels_whole_words
from pipelines.finetuning.metrics import label_figures, span_figures
from pipelines.finetuning.model_card import learning_curve, write_card
from pipelines.finetuning.objective import Objective
from pipelines.finetuning.options import TrainingOptions
from pipelines.finetuning.plan import Job, Plan
from pipelines.finetuning.token_rows import IGNORED, Counts, TokenRow, ToRows
from pipelines.finetuning.training import Run, micro_batches, plan_steps

OPTIONS = TrainingOptions(epochs=2, learning_rate=1e-3, tokens_per_step=120, max_tokens_per_batch=60)


def tagged(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Sentences in which the capital letter after "of" is a PLACE."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        words = [draw.choice(["block", "reads", "the", "first", "lake"]) for _ in range(draw.randint(4, 12))]
        before = " ".join(words) + " of "
        name = draw.choice("ABCDEFGH") + str(draw.randint(0, 99))
        text = before + name + " is long"
        rows.append({"text": text, "entities": [{"start": len(before), "end": len(before + name), "label": "PLACE"}]})
    return rows


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer_dir: Path) -> BigBirdTokenizer:
    return BigBirdTokenizer.from_pretrained(tiny_tokenizer_dir)


def token_rows(
    documents: list[dict[str, Any]], task: Any, tokenizer: BigBirdTokenizer, labels: list[str], max_length: int
) -> tuple[list[TokenRow], Counts]:
    config = BigBirdConfig(vocab_size=tokenizer.vocab_size, max_position_embeddings=max_length)
    return ToRows(task=task, tokenizer=tokenizer, config=config, labels=labels, max_length=max_length).rows(documents)


def test_labels_lie_on_the_tokens_of_their_spans(tokenizer: BigBirdTokenizer) -> None:
    document = tagged(1)[0]
    labels, _ = find_labels([document], "token-classification")
    (row,), counts = token_rows([document], "token-classification", tokenizer, labels, 512)
    encoding = tokenizer.encode_batch(document["text"])
    (entity,) = document["entities"]
    covered = [
        label
        for label, (start, end) in zip(row.targets, encoding.offsets, strict=True)
        if start < entity["end"] and end > entity["start"]
    ]
    assert labels == ["O", "B-PLACE", "I-PLACE"]
    assert covered == [1] + [2] * (len(covered) - 1)
    assert sum(label > 0 for label in row.targets) == len(covered)
    assert row.targets[0] == row.targets[-1] == IGNORED
    assert counts.labels == {"PLACE": 1}


def test_a_long_document_keeps_every_token_and_label_once(tokenizer: BigBirdTokenizer) -> None:
    document = tagged(1)[0]
    labels, _ = find_labels([document], "token-classification")
    (whole,), _ = token_rows([document], "token-classification", tokenizer, labels, 512)
    rows, counts = token_rows([document], "token-classification", tokenizer, labels, 7)
    assert counts.rows == len(rows) > 1
    assert [token for row in rows for token in row.ids[1:-1]] == list(whole.ids[1:-1])
    assert [label for row in rows for label in row.targets[1:-1]] == list(whole.targets[1:-1])


@pytest.mark.parametrize(
    ("entities", "complaint"),
    [
        ([{"start": 0, "end": 99, "label": "X"}], "span 0..99 is not within 0..5"),
        ([{"start": 0, "end": 3, "label": "X"}, {"start": 2, "end": 4, "label": "X"}], "overlaps"),
        (None, "row 0: entities is null"),
    ],
)
def test_a_bad_span_is_named(entities: Any, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        check_documents([{"text": "abcde", "entities": entities}], "token-classification", "train")


def test_a_text_on_both_sides_of_the_split_is_refused() -> None:
    rows = tagged(3)
    with pytest.raises(InputError, match="1 of 2 evaluation rows have the text of a training row, first row 1"):
        check_split(rows, [*tagged(1, seed=5), rows[2]], "token-classification")


def test_an_unknown_label_is_refused() -> None:
    with pytest.raises(InputError, match="evaluation row 0: label 'b' is not in the training rows"):
        check_split([{"text": "x", "label": "a"}], [{"text": "y", "label": "b"}], "text-classification")


@pytest.mark.parametrize(("trained", "held_out"), [(0.5, "1"), ("1", 1.0), ("a", ["a"]), (["a"], "a")])
def test_labels_of_another_kind_in_the_held_out_rows_are_refused(trained: Any, held_out: Any) -> None:
    train = [{"text": "x", "label": trained}, {"text": "z", "label": ["b"] if isinstance(trained, list) else trained}]
    problem_type = {float: "regression", list: "multi_label_classification"}.get(
        type(trained), "single_label_classification"
    )
    with pytest.raises(InputError, match=r"evaluation row 0: label .* write the labels of both as the same type"):
        check_split(train, [{"text": "y", "label": held_out}], "text-classification", problem_type)


def test_lists_that_hold_no_labels_are_refused() -> None:
    with pytest.raises(InputError, match=r"row 0: label is .* expected a list of names"):
        check_documents([{"text": "x", "label": [["a"]]}], "text-classification", "train")
    with pytest.raises(InputError, match="the training rows hold no label"):
        find_labels([{"text": "x", "label": []}], "text-classification")


def test_every_epoch_visits_every_row_once(tokenizer: BigBirdTokenizer) -> None:
    rows, _ = token_rows(tagged(20), "masked-lm", tokenizer, [], 512)
    steps = plan_steps(rows, OPTIONS)
    assert sorted(index for step in steps for index in step) == sorted([*range(20)] * 2)
    assert steps == plan_steps(rows, OPTIONS)
    assert [row for batch in micro_batches(rows, 40) for row in batch] == rows


def _run(checkpoint: Path, tokenizer: BigBirdTokenizer, options: TrainingOptions = OPTIONS) -> Run:
    rows, _ = token_rows(tagged(24), "masked-lm", tokenizer, [], 512)
    model = load_model(checkpoint, dtype=torch.float32)
    return Run(Objective(model, "masked-lm", options, tokenizer.mask_token_id), rows, options)


def test_a_run_that_goes_on_from_its_state_makes_the_same_steps(
    tiny_checkpoint: Any, tokenizer: BigBirdTokenizer, tmp_path: Path
) -> None:
    checkpoint = tiny_checkpoint(BigBirdForMaskedLM)  # its dropout is 0.1, so the seed of each step matters
    whole = _run(checkpoint, tokenizer)
    while not whole.is_finished:
        whole.advance()
    first = _run(checkpoint, tokenizer)
    for _ in range(3):
        first.advance()
    torch.save(first.state(), tmp_path / "state.pt")
    second = _run(checkpoint, tokenizer)
    second.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    while not second.is_finished:
        second.advance()
    assert second.losses == whole.losses
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, second.model.state_dict()[name]), name


@pytest.mark.parametrize("task", ["masked-lm", "causal-lm", "text-classification"])
def test_the_gradient_of_a_step_is_the_same_in_one_batch_and_in_parts(
    task: Any, tiny_checkpoint: Any, tokenizer: BigBirdTokenizer
) -> None:
    heads = {
        "masked-lm": (BigBirdForMaskedLM, {}),
        "causal-lm": (BigBirdForCausalLM, {"is_decoder": True}),
        "text-classification": (BigBirdForSequenceClassification, {"num_labels": 2}),
    }
    head, overrides = heads[task]
    documents = [{"text": row["text"], "label": str(i % 2)} for i, row in enumerate(tagged(6))]
    rows, _ = token_rows(documents, task, tokenizer, ["0", "1"] if "text" in task else [], 512)
    gradients = []
    for parts in ([rows], [rows[0::2], rows[1::2]]):  # a batch; the shares of two workers
        model = load_model(tiny_checkpoint(head, **overrides), dtype=torch.float32).eval()
        objective = Objective(model, task, OPTIONS, tokenizer.mask_token_id)
        for part in parts:
            (objective.loss_sum(part, 0) / sum(map(objective.num_targets, rows))).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-4, atol=1e-6)


def test_layers_computed_twice_make_the_same_steps(
    tiny_checkpoint: Any, tokenizer: BigBirdTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, calls = tiny_checkpoint(BigBirdForMaskedLM), []
    recompute = layers.checkpoint
    monkeypatch.setattr(layers, "checkpoint", lambda *args, **more: calls.append(1) or recompute(*args, **more))
    kept, again = (
        _run(checkpoint, tokenizer, replace(OPTIONS, gradient_checkpointing=twice)) for twice in (False, True)
    )
    expected = [kept.advance() for _ in range(3)]
    assert not calls
    assert [again.advance() for _ in range(3)] == pytest.approx(expected, rel=1e-5)
    assert calls


def test_the_masked_lm_loss_is_that_of_the_padded_forward(tiny_checkpoint: Any, tokenizer: BigBirdTokenizer) -> None:
    model = load_model(tiny_checkpoint(BigBirdForMaskedLM), dtype=torch.float32).eval()
    (row,), _ = token_rows(tagged(1), "masked-lm", tokenizer, [], 512)
    objective = Objective(model, "masked-lm", OPTIONS, tokenizer.mask_token_id)
    hidden = objective._hidden(row, 4)
    places = list(hidden)
    shown, labels = torch.tensor(row.ids.tolist())[None], torch.full((1, len(row.ids)), -100)
    labels[0, places] = shown[0, places]
    shown[0, places] = torch.tensor(list(hidden.values()))
    expected = model(shown, labels=labels).loss * len(places)
    torch.testing.assert_close(objective.loss_sum([row], 4), expected)


def test_span_figures_count_exact_spans_and_labels() -> None:
    truth = [{(0, 2, "A"), (5, 9, "B")}, {(1, 3, "A")}]
    found = [{(0, 2, "A"), (5, 8, "B")}, {(1, 3, "B")}]
    figures = span_figures(truth, found)
    assert figures["f1"] == pytest.approx(1 / 3)
    assert figures["f1/A"] == pytest.approx(2 / 3)
    assert figures["f1/B"] == 0


def test_macro_f1_is_the_mean_over_the_labels_that_occur() -> None:
    figures = label_figures([{"a"}, {"a"}, {"b"}], [{"a"}, {"b"}, {"b"}])
    assert figures["macro_f1"] == pytest.approx((2 / 3 + 2 / 3) / 2)


@pytest.mark.parametrize(
    ("text", "span", "whole"),
    [
        ("in x_1.", (3, 6), True),
        ("ab", (0, 2), True),
        ("in x_1.", (3, 7), True),
        ("in x_1.", (3, 4), False),
        ("\u6771\u4eac\u306b", (0, 2), False),
    ],
)
def test_labels_that_part_a_word_are_found(text: str, span: tuple[int, int], whole: bool) -> None:
    entity = {"start": span[0], "end": span[1], "label": "X"}
    assert labels_whole_words([{"text": text, "entities": [entity]}]) is whole


def test_the_learning_curve_is_a_picture() -> None:
    assert learning_curve([2.0, 1.0], [{"step": 2, "loss": 1.5}]).startswith("<svg")


def test_a_card_names_the_task_as_the_hub_does(tmp_path: Path) -> None:
    job = Job(task="causal-lm", model="encoder", train="", held_out="", output="")
    plan = Plan(
        labels=(),
        unmeasured=(),
        problem_type=None,
        max_length=512,
        counts={},
        fingerprint="0",
        model_digest="",
        formats={},
    )
    write_card(tmp_path, job, plan, [2.0], [], {"perplexity": 7.4})
    assert "pipeline_tag: text-generation\n" in (tmp_path / "README.md").read_text()


@pytest.mark.ray
def test_from_parquet_to_a_checkpoint_that_finds_entities_on_a_ray_of_its_own_that_says_how_far_it_is(
    tiny_checkpoint: Any, tmp_path: Path
) -> None:
    rows = list({row["text"]: row for row in tagged(180, 1)}.values())
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "README.md").write_text("two files, of which Ray Data would leave one out")
    for name, part in (("a.parquet", rows[:75]), ("b.pq", rows[75:150])):
        pq.write_table(pa.Table.from_pylist(part), tmp_path / "train" / name)
    pq.write_table(pa.Table.from_pylist(rows[150:]), tmp_path / "eval.parquet")
    files = {"--train": "train", "--eval": "eval.parquet", "--output": "out"}
    paths = [word for flag, name in files.items() for word in (flag, str(tmp_path / name))]
    model = tiny_checkpoint(BigBirdForMaskedLM, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    options = ["--epochs", "12", "--learning-rate", "3e-3", "--tokens-per-step", "400", "--warmup", "0.1"]
    command = [sys.executable, "-m", "pipelines.finetune", "--task", "token-classification", "--model", str(model)]
    said = run([*command, *paths, *options], env={**os.environ, "RAY_ADDRESS": "local"})
    steps, last = map(int, re.findall(r"step (\d+)/(\d+)", said)[-1])
    assert steps == last > 12
    assert "Failed to query" not in said  # once a second, where there is no state API
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert figures["f1"] > 0.5  # always answering "O" finds nothing: 0
    assert "learning-curve.svg" in (tmp_path / "out" / "README.md").read_text()
    config = load_model(tmp_path / "out").config
    assert config.id2label[1] == "B-PLACE"
    assert config.extra["task_specific_params"] == {"token-classification": {"aggregation_strategy": "words"}}
