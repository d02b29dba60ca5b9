"""pipelines.score with every kind of file and column at once, and over its own output."""

import json
import random
import re
import uuid
from decimal import Decimal

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from jobs import CountCharacters, command, model_info, write_corpus
from ray.data.extensions import ArrowTensorArray, ArrowVariableShapedTensorArray
from ray_session import ON_TWO_CPUS

from bigbird.errors import InputError
from pipelines import score
from pipelines.scoring import ids
from pipelines.scoring.actors.pool import ScoreOptions
from pipelines.scoring.ids import check_ids
from pipelines.scoring.inputs.listing import list_inputs

pytestmark = ON_TWO_CPUS

IDS = [uuid.UUID(int=1), uuid.UUID(int=2)]


@pytest.fixture(scope="module")
def everything(two_cpus, tmp_path_factory):
    """A folder with everything, scored; one row fails for a passing cause and is scored by a second start."""
    folder = tmp_path_factory.mktemp("everything")
    files = {
        "zip=02134/a.parquet": {
            "text": pa.array(["first text", "memory"], pa.string_view()),
            "id": pa.array(IDS, pa.uuid()),
            "n": pa.array([2**63, 1], pa.uint64()),
            "tensor": ArrowTensorArray.from_numpy(np.arange(12.0).reshape(2, 2, 3)),
            "view": pa.array([[1, 2], None], pa.list_view(pa.int16())),
            "kind": pa.array(["x", None]).dictionary_encode(),
            "map": pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int32())),
        },
        "zip=7/b.parquet": {
            "text": ["second text"],
            "n": pa.array([-1]),
            "tensor": ArrowVariableShapedTensorArray.from_numpy([np.ones((4, 1))]),
            "view": pa.array([[3]], pa.large_list(pa.int8())),
            "kind": ["y"],
            "only here": [{"deep": [None, {"x": 1}]}],
        },
    }
    for name, columns in files.items():
        (folder / "in" / name).parent.mkdir(parents=True)
        pq.write_table(pa.table(columns), folder / "in" / name)
    (folder / "in" / "dataset_infos.json").write_text("{}")
    (folder / "in" / "README.md").write_text("about")
    lines = [{"text": "a line", "extra": {}}, {"text": "another", "extra": [1.5, "x"], "late": 12345678901234567890}]
    (folder / "in" / "c.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    with pytest.MonkeyPatch.context() as patch:
        marker = folder / "memory-is-back"
        patch.setattr(score, "load_predictor", lambda *args, **kwargs: CountCharacters(str(marker)))
        patch.setattr(score, "inspect_model", model_info)
        for _ in range(2):
            score.main(command(folder, "--max-error-share", "1"))
            marker.touch()
        yield folder


def test_every_row_is_scored_with_its_columns_as_they_came(everything):
    found = pq.read_table(everything / "out").sort_by([("source_file", "ascending"), ("source_row", "ascending")])
    rows = {row["text"]: row for row in found.to_pylist()}
    assert {text: row["nll"] for text, row in rows.items()} == {text: len(text) / 3 for text in rows}
    assert [row["text"] for row in rows.values()] == ["a line", "another", "first text", "memory", "second text"]
    assert all(row["error"] is None for row in rows.values())
    first, second = rows["first text"], rows["second text"]
    assert (first["id"], rows["memory"]["id"], second["id"]) == (*IDS, None)
    assert (first["n"], second["n"], rows["a line"]["n"]) == (Decimal(2**63), Decimal(-1), None)
    assert [row["zip"] for row in rows.values()] == [None, None, "02134", "02134", "7"]
    assert (first["view"], rows["memory"]["view"], second["view"]) == ([1, 2], None, [3])
    assert (first["kind"], rows["memory"]["kind"], second["kind"]) == ("x", None, "y")
    assert (first["map"], rows["memory"]["map"]) == ([("k", 1)], [])
    assert second["only here"] == {"deep": [None, {"x": 1}]}
    assert first["tensor"].tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    assert second["tensor"].tolist() == [[1.0]] * 4
    assert [rows[text]["extra"] for text in ("a line", "another", "memory")] == ["{}", '[1.5,"x"]', None]
    assert rows["another"]["late"] == "12345678901234567890"


def test_ray_and_duckdb_read_the_output(everything):
    assert ray.data.read_parquet(str(everything / "out")).count() == 5
    query = f"select text, nll from read_parquet('{everything}/out/*.parquet') where zip = '02134' order by text"
    assert duckdb.connect().execute(query).fetchall() == [("first text", 10 / 3), ("memory", 2.0)]


def test_an_output_is_scored_again_beside_its_first_results(everything, tmp_path, capsys, monkeypatch):
    arguments = command(tmp_path, "--input", str(everything / "out"))
    assert score.main(arguments) == 2
    refused = capsys.readouterr().err
    assert "'error', 'nll'" in refused
    assert "--prefix" in refused
    assert not (tmp_path / "out").exists()
    assert score.main([*arguments, "--prefix", "again_"]) == 0
    rows = pq.read_table(tmp_path / "out").to_pylist()
    assert [row["again_nll"] for row in rows] == [row["nll"] for row in rows]
    assert {row["source_file"].rpartition("/")[2] for row in rows} == {"a.parquet", "b.parquet", "c.jsonl"}
    assert all("/part-" in row["again_source_file"] for row in rows)
    assert score.main([*arguments, "--prefix", "other_"]) == 2
    assert 'prefix was "again_", is "other_"' in capsys.readouterr().err


def test_columns_that_no_type_holds_are_refused_by_name_and_left_out_they_cost_nothing(everything, tmp_path, capsys):
    write_corpus(tmp_path / "in" / "a.parquet", ["one"], key=[2**53 + 1])
    write_corpus(tmp_path / "in" / "b.parquet", ["two"], key=[3.5], lang=["en"])
    assert score.main(command(tmp_path)) == 2
    said = capsys.readouterr().err
    assert re.search(r"column 'key' is int64 in '.*a\.parquet' and double in '.*b\.parquet'.*--columns", said)
    assert not (tmp_path / "out").exists()
    assert score.main(command(tmp_path, "--columns", "lang")) == 0
    assert pq.read_table(tmp_path / "out").sort_by("source_file")["lang"].to_pylist() == [None, "en"]


def test_two_scores_of_one_pipeline_have_a_prefix_or_are_refused(everything):
    texts = ray.data.from_arrow(pa.table({"text": ["four"]}))
    options = {prefix: ScoreOptions(num_actors=1, num_cpus_per_actor=0.5, prefix=prefix) for prefix in ("", "b_")}
    load = score.load_predictor
    once = score.score(texts, "masked-lm-scoring", "m", options[""], load=load)
    (row,) = score.score(once, "masked-lm-scoring", "m", options["b_"], load=load).take_all()
    assert row["nll"] == row["b_nll"] == 4 / 3
    with pytest.raises(Exception, match="column 'nll' is there already; give the results a prefix"):
        score.score(once, "masked-lm-scoring", "m", options[""], load=load).take_all()


@pytest.mark.parametrize(("kind", "rows_a_task"), [(str, 40), (int, 1000)])
def test_a_repeated_or_missing_id_is_named_wherever_it_stands_in_tasks_and_parts(
    kind, rows_a_task, monkeypatch, tmp_path
):
    monkeypatch.setattr(ids, "_ROWS_A_TASK", rows_a_task)
    monkeypatch.setattr(ids, "_ROWS_A_PART", 50)
    draw = random.Random(0)
    values = [kind(number) for number in draw.sample(range(10**6), 300)]

    def check(changed):
        for number in range(3):
            column = pa.array(changed[100 * number : 100 * (number + 1)])
            pq.write_table(pa.table({"id": column, "text": ["x"] * 100}), tmp_path / f"{number}.parquet", 20)
        check_ids(list_inputs([str(tmp_path)]), "id")

    check(values)
    first, second = 17, 261
    twice = [*values[:second], values[first], *values[second + 1 :]]
    places = rf"row 17 of '{tmp_path}/0.parquet' and row 61 of '{tmp_path}/2.parquet'"
    with pytest.raises(InputError, match=f"id {values[first]!r} occurs twice: {places}"):
        check(twice)
    with pytest.raises(InputError, match=r"id .* occurs twice: row 0 of .*0.parquet' and row 1 of .*0.parquet'"):
        check([values[0]] * 300)
    with pytest.raises(InputError, match=r"id column 'id' is null in row 5 of .*1.parquet'"):
        check([*values[:105], None, *values[106:]])
    with pytest.raises(InputError, match=r"id column 'id' is nan in row 5 of .*1.parquet'"):
        check([float("nan") if number == 105 else float(value) for number, value in enumerate(values)])
    no_text = pa.array([b"\xff%d" % number for number in range(300)])
    for distinct in (
        pa.Array.from_buffers(pa.string(), 300, no_text.buffers()),
        pa.array(range(300), pa.time64("ns")),
        pa.array(range(300), pa.timestamp("ns")),
        pa.array([value.to_bytes(16) for value in range(300)], pa.uuid()),
    ):
        check(distinct)
    with pytest.raises(InputError, match=r"id column 'id' has type list<.*>; expected texts, numbers or times"):
        check([[value] for value in values])


def test_two_scores_are_one_job_with_errors_of_their_own(tmp_path, capsys, monkeypatch):
    marker = tmp_path / "memory-is-back"
    markers = {"m": str(tmp_path), "n": str(marker)}  # of two models, of which one runs out of memory at first
    monkeypatch.setattr(score, "load_predictor", lambda task, model, **_: CountCharacters(markers[model]))
    monkeypatch.setattr(score, "inspect_model", model_info)
    write_corpus(tmp_path / "in" / "a.parquet", ["one", "memory", None, "three"])
    both = ["--score", "a=masked-lm-scoring:m", "--score", "b=masked-lm-scoring:n:return_tokens=false"]
    arguments = [*both, *command(tmp_path, "--max-error-share", "1")[4:]]
    assert score.main(arguments) == 3
    said = capsys.readouterr()
    assert "a=masked-lm-scoring, b=masked-lm-scoring: 1 file, 4 rows" in said.err
    assert "(a: InputError 1, b: InputError 1, b: MemoryError 1)" in said.out
    names = ["nll", "pseudo_perplexity", "num_tokens", "num_windows", "truncated", "error"]
    kept, origin = ["id", "text"], ["source_file", "source_row"]
    table = pq.read_table(tmp_path / "out")
    assert table.column_names == kept + [f"{name}_{field}" for name in "ab" for field in names] + origin
    assert [row["a_nll"] for row in table.to_pylist()] == [1.0, 2.0, None, 5 / 3]
    assert [row["b_nll"] for row in table.to_pylist()] == [1.0, None, None, 5 / 3]
    marker.touch()
    assert score.main(arguments) == 3
    assert "b: MemoryError" not in capsys.readouterr().out
    rows = pq.read_table(tmp_path / "out").to_pylist()
    assert [(row["a_nll"], row["b_nll"]) for row in rows] == [(1.0, 1.0), (2.0, 2.0), (None, None), (5 / 3, 5 / 3)]
    report = json.loads((tmp_path / "out.report.json").read_text())
    assert [section["errors"] for section in report["sections"].values()] == [{"InputError": 1}, {"InputError": 1}]
    html = (tmp_path / "out.report.html").read_text()
    assert all(f"{name}: masked-lm-scoring</h1>" in html for name in "ab")
    assert score.main([*arguments[:2], *arguments[4:]]) == 2
    assert "model of b was" in capsys.readouterr().err
    assert score.main(["--task", "fill-mask", *arguments]) == 2
    assert "task together with scores: each score has its own" in capsys.readouterr().err
    assert score.main([*arguments, "--option", "top_k=1"]) == 2
    assert score.main([*arguments, "--score", "q=question-answering:m"]) == 2
    assert "column 'question' is not in the input" in capsys.readouterr().err


def test_a_pipeline_scores_in_several_ways_in_one_step(everything):
    texts = ray.data.from_arrow(pa.table({"text": ["four"]}))
    options = ScoreOptions(num_actors=1, num_cpus_per_actor=0.5, prefix="x_")
    asked = [score.Score(name=name, task="masked-lm-scoring", model="m") for name in "ab"]
    (row,) = score.score(texts, scores=asked, options=options, load=score.load_predictor).take_all()
    assert row["x_a_nll"] == row["x_b_nll"] == 4 / 3
    with pytest.raises(InputError, match="task and model together with scores"):
        score.score(texts, "masked-lm-scoring", "m", scores=asked)
    with pytest.raises(InputError, match="score name 'a' is there 2 times"):
        score.score(texts, scores=[*asked, asked[0]])
