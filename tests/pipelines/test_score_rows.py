"""pipelines.scoring.actors.score_rows without Ray: what the library gives for a row is what the job writes."""

import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rows_to_score import CONFIG_OF, HEAD, OPTIONS_OF, TABLE, Refusing

from bigbird.predictors import OPTIONS, load_predictor
from pipelines.scoring.actors.pool import ScoreOptions
from pipelines.scoring.actors.score_rows import WINDOW_CHARS, ScoreRows, Stage, StagedScore
from pipelines.scoring.actors.score_unit import replace_rows
from pipelines.scoring.actors.tokenize_rows import PREPARED, TokenizeRows
from pipelines.scoring.schemas import InputColumns, output_schema, result_fields


def stage(task, model="", load=load_predictor, options=None, columns=None, **more):
    fields = result_fields(task, options=options, embedding_size=32)
    columns = (columns or InputColumns()).of_task(task)
    scores = [StagedScore(task=task, model=str(model), columns=columns, results=fields, options=options)]
    return Stage(scores=scores, load=load, **more)


@pytest.mark.parametrize("task", OPTIONS)
def test_the_job_writes_what_the_library_gives(task, tiny_checkpoint):
    model = tiny_checkpoint(HEAD[task], **CONFIG_OF.get(task, {}))
    options = OPTIONS[task](**OPTIONS_OF.get(task, {}))
    columns = InputColumns(text_pair="pair")
    scorer = ScoreRows(stage(task, model, options=options, columns=columns))
    scored = scorer(TABLE)
    given = TABLE.drop_columns(["choices"] if task != "multiple-choice" else [])
    schema = output_schema(TABLE.schema, scorer.stage.results)
    (score,) = scorer.stage.scores
    assert scored.schema == pa.schema(list(schema)[:-2])
    assert scored.select(given.column_names).equals(TABLE.select(given.column_names))
    rows = scorer.stage.examples(TABLE)
    records = load_predictor(task, model, options=options)([example for (example,) in rows])
    renamed = {"scores": "choices"} if task == "multiple-choice" else {}
    for row, record in zip(scored.to_pylist(), records, strict=True):
        if "error" in record:
            assert {key: row["error"][key] for key in ("type", "message")} == record["error"]
            assert all(row[field.name] is None for field in score.results)
        else:
            found = {renamed.get(field.name, field.name): row[field.name] for field in score.results}
            assert found == record
            assert row["error"] is None
    assert any(row["error"] is None for row in scored.to_pylist())
    assert scored["error"][1].as_py()["type"] == "InputError"
    tokenized = TokenizeRows(scorer.stage)(TABLE)
    assert None not in tokenized[PREPARED].to_pylist()
    assert scorer(tokenized).equals(scored)


@given(st.lists(st.integers(0, WINDOW_CHARS), max_size=30), st.integers(1, 7))
def test_windows_hold_every_row_once_and_few_characters(sizes, window_rows):
    scorer = ScoreRows(stage("masked-lm-scoring", load=lambda *a, **k: None, window_rows=window_rows))
    rows = [({"text": "x" * (size // 10_000)},) for size in sizes]
    windows = scorer.windows(rows)
    assert [row for start, stop in windows for row in range(start, stop)] == list(range(len(rows)))
    assert all(stop - start <= window_rows for start, stop in windows)


def test_a_window_ends_before_it_has_too_many_characters():
    scorer = ScoreRows(stage("masked-lm-scoring", load=lambda *a, **k: None))
    half = "x" * (WINDOW_CHARS // 2)
    assert scorer.windows([(text,) for text in (half, half, "x", half * 3, "x")]) == [(0, 2), (2, 3), (3, 4), (4, 5)]


def test_rows_that_make_a_batch_raise_are_found_by_halving():
    predictor = Refusing({13, 77})
    scorer = ScoreRows(stage("masked-lm-scoring", load=lambda *a, **k: predictor))
    rows = list(range(128))
    given = [(row,) for row in rows]
    records = [record for (record,) in scorer.records(given, scorer.windows(given), [None] * len(rows))]
    assert [row for row in rows if records[row].get("error")] == [13, 77]
    assert records[13]["error"] == {"type": "ArithmeticError", "message": "1 rows", "retryable": False}
    assert [record["nll"] for row, record in enumerate(records) if row not in (13, 77)] == [
        row for row in rows if row not in (13, 77)
    ]
    assert predictor.calls < 40


def test_rows_that_were_tokenized_ahead_are_not_tokenized_again():
    predictor = Refusing(set())
    scorer = ScoreRows(stage("masked-lm-scoring", load=lambda *a, **k: predictor))
    tokenized = TokenizeRows(scorer.stage)(pa.table({"text": ["1", "2"]}))
    predictor.preprocess = None
    assert scorer(tokenized)["nll"].to_pylist() == [1.0, 2.0]


def test_rows_scored_again_take_the_place_of_their_old_form():
    def part(rows, value):
        views = pa.array(map(str, rows), pa.string_view())  # which Arrow can neither filter nor sort
        columns = {"nll": [value] * len(rows), "id": views, "source_file": ["a"] * len(rows), "source_row": rows}
        return pa.table(columns)

    merged = replace_rows(part([3, 4, 5, 6], 1.0), part([4, 6], 2.0))
    assert merged["source_row"].to_pylist() == [3, 4, 5, 6]
    assert merged["nll"].to_pylist() == [1.0, 2.0, 1.0, 2.0]
    assert merged["id"].to_pylist() == ["3", "4", "5", "6"]


def test_the_threads_of_an_actor_are_those_it_was_given():
    import torch

    before = torch.get_num_threads()
    try:
        stage("masked-lm-scoring", load=lambda *a, **k: None, num_threads=before + 1).predictors()
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_actors_with_gpus_compute_in_bfloat16_and_each_takes_its_share_of_the_memory(monkeypatch):
    assert ScoreOptions().dtype == "float32"
    assert ScoreOptions(num_gpus_per_actor=0.5).dtype == "bfloat16"
    assert ScoreOptions(num_gpus_per_actor=0.5, dtype="float16").dtype == "float16"
    assert ScoreOptions(dtype="auto").dtype == "auto"
    shares = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", shares.append)
    for share in (0.5, 1.0):
        Stage(scores=[], load=lambda *_, **__: None, gpu_share=share).predictors()
    assert shares == [0.5]
