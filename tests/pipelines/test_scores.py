"""Several scores in one pass, without Ray: what is asked for, and that each score is what a job of its own gives."""

import dataclasses

import pyarrow as pa
import pytest
from rows_to_score import CONFIG_OF, HEAD, OPTIONS_OF, TABLE, Refusing
from tiny_predictors import near

from bigbird.errors import InputError
from bigbird.model import BigBirdModel
from bigbird.predictors import OPTIONS, load_predictor
from pipelines.scoring.actors.pool import ScoreOptions
from pipelines.scoring.actors.score_rows import ScoreRows, Stage, StagedScore
from pipelines.scoring.actors.stages import make_stage
from pipelines.scoring.actors.tokenize_rows import TokenizeRows
from pipelines.scoring.checks import ModelInfo, held_together, inspect_model
from pipelines.scoring.schemas import InputColumns, output_schema, result_fields
from pipelines.scoring.scores import Score, scores_of

READ = ("token-classification", "text-classification", "feature-extraction", "fill-mask")


@pytest.fixture(scope="module")
def models(tiny_checkpoint):
    """A checkpoint of each task. Weights are drawn in order, so the encoders are the same, the decoder's apart."""
    return {task: str(tiny_checkpoint(head, **CONFIG_OF.get(task, {}))) for task, head in HEAD.items()}


def staged(scores, **options):
    options = ScoreOptions(columns=InputColumns(text_pair="pair"), **options)
    return make_stage(scores, options, load=load_predictor, inspect=inspect_model)


def score_of(task, models, **options):
    return Score(name=task.replace("-", "_"), task=task, model=models[task], options=OPTIONS[task](**options))


def test_every_score_is_what_a_job_of_its_own_gives(models):
    scores = [score_of(task, models, **OPTIONS_OF.get(task, {})) for task in OPTIONS]
    scores.append(dataclasses.replace(score_of("masked-lm-scoring", models, num_passes=2), name="fewer"))
    stage, model = staged(scores, max_tokens_per_batch=900)
    assert len({score.encoder for score in stage.scores}) == 2
    assert model.weight_bytes < sum(inspect_model(score.task, score.model).weight_bytes for score in scores)
    scorer = ScoreRows(stage)
    scored = scorer(TABLE)
    schema = output_schema(TABLE.schema, stage.results)
    assert scored.schema == pa.schema(list(schema)[:-2])
    for score in scores:
        alone, _ = staged([dataclasses.replace(score, name="")])
        own = ScoreRows(alone)(TABLE)
        for field in [*(field.name for field in alone.scores[0].results), "error"]:
            assert near(scored[f"{score.name}_{field}"].to_pylist(), own[field].to_pylist()), (score.name, field)
    assert near(scorer(TokenizeRows(stage)(TABLE)).to_pylist(), scored.to_pylist())


def test_heads_on_one_encoder_cost_the_passes_of_one(models, monkeypatch):
    passes, encode = [], BigBirdModel.encode

    def counted(self, packed):
        passes.append(packed.lengths)
        return encode(self, packed)

    monkeypatch.setattr(BigBirdModel, "encode", counted)
    counts = []
    for tasks in (READ[:1], READ):
        stage, _ = staged([score_of(task, models) for task in tasks], max_tokens_per_batch=600)
        ScoreRows(stage)(TABLE.drop_columns(["pair"]).append_column("pair", pa.nulls(TABLE.num_rows, pa.string())))
        counts.append(list(passes))
        passes.clear()
    assert counts[0] == counts[1]


def test_a_score_that_fails_on_a_row_costs_the_others_nothing():
    predictors = {"a": Refusing({3, 60}), "b": Refusing({60, 61}), "c": Refusing(set())}
    results = result_fields("masked-lm-scoring")
    scores = [
        StagedScore(name=name, task="masked-lm-scoring", model=name, columns={"text": "text"}, results=results)
        for name in predictors
    ]
    stage = Stage(scores=scores, load=lambda task, model, **_: predictors[model])
    scored = ScoreRows(stage)(pa.table({"text": range(64)})).to_pylist()
    for name, predictor in predictors.items():
        failed = [row["text"] for row in scored if row[f"{name}_error"]]
        assert failed == sorted(predictor.bad)
        assert all((row[f"{name}_nll"] is None) == (row["text"] in failed) for row in scored)
    assert scored[60]["a_error"] == {"type": "ArithmeticError", "message": "1 rows", "retryable": False}


def test_an_encoder_that_several_have_is_counted_once():
    one = ModelInfo(digest="1", embedding_size=4, weight_bytes=110, encoder="e", encoder_bytes=100, files=(("f", 1),))
    two = dataclasses.replace(one, digest="2", weight_bytes=105)
    other = dataclasses.replace(one, digest="3", encoder="o", encoder_bytes=90)
    together = held_together([one, two, other])
    assert together.weight_bytes == 100 + 10 + 5 + 90 + 20
    assert together.files == (("f", 1),)
    assert held_together([one]) is one
    assert len({held_together(models).digest for models in ([one, two], [two, one], [one, other])}) == 3


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("ner=token-classification:my-tagger", ("ner", "token-classification", "my-tagger", {})),
        (
            "n2=masked-lm-scoring:s3://bucket/a:b@v1:num_passes=3,return_tokens=true",
            ("n2", "masked-lm-scoring", "s3://bucket/a:b@v1", {"num_passes": 3, "return_tokens": True}),
        ),
        (
            "topic=zero-shot-classification:m:candidate_labels=city,lake,hypothesis_template=It is {}, no,combine=max",
            (
                "topic",
                "zero-shot-classification",
                "m",
                {"candidate_labels": ("city", "lake"), "hypothesis_template": "It is {}, no", "combine": "max"},
            ),
        ),
        (
            'q=zero-shot-classification:C:\\m:candidate_labels=["a, b=c", "d"],combine=max',
            ("q", "zero-shot-classification", "C:\\m", {"candidate_labels": ("a, b=c", "d"), "combine": "max"}),
        ),
    ],
)
def test_a_score_is_read_from_a_text(text, score):
    name, task, model, options = score
    assert Score.parse(text) == Score(name=name, task=task, model=model, options=OPTIONS[task](**options))


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["fill-mask:m"], "score 'fill-mask:m': expected NAME=TASK:MODEL"),
        (["a=fill-mask:"], "expected NAME=TASK:MODEL"),
        (["a=summarization:m"], "task 'summarization' is not known"),
        (["a=fill-mask:m:topk=3"], "option 'topk=3': expected NAME=VALUE with one of on_long, "),
        (["a=fill-mask:m:top_k=3,topk=3"], "option 'topk=3'"),
        (["a=fill-mask:m:top_k=3,top_k=4"], "option top_k is given twice"),
        (["a=fill-mask:m:targets=[x,top_k=3"], "option targets="),
        (["a=fill-mask:m:top_k"], "option top_k has no value; expected top_k=VALUE"),
        (["a=fill-mask:m:top_k:on_long=window"], "option top_k has no value"),
        (["a=fill-mask:m:top_k=three"], "option top_k='three': expected int"),
        (["a=fill-mask:m", "b=fill-mask:m", "A=fill-mask:n"], "score name 'a' is there 2 times"),
        (["1=fill-mask:m"], "score name '1': expected a letter"),
        (["=fill-mask:m"], "score name '': expected a letter"),
    ],
)
def test_what_is_no_score_is_refused_by_name(texts, message):
    with pytest.raises(InputError, match=message):
        scores_of("", "", None, [Score.parse(text) for text in texts])


def test_scores_stand_in_the_place_of_a_task_and_its_model():
    score = Score(name="a", task="fill-mask", model="m")
    assert scores_of("fill-mask", "m", None, []) == (dataclasses.replace(score, name=""),)
    for given in (("fill-mask", "", None), ("", "m", None), ("", "", OPTIONS["fill-mask"]())):
        with pytest.raises(InputError, match="together with scores"):
            scores_of(*given, [score])
    with pytest.raises(InputError, match="what to score by is missing"):
        scores_of("fill-mask", None, None, [])


def test_two_scores_that_would_write_one_column_are_refused():
    tokens = result_fields("masked-lm-scoring", options=OPTIONS["masked-lm-scoring"](return_tokens=True))
    with pytest.raises(InputError, match="two scores write column 'a_num_tokens'"):
        output_schema(pa.schema([]), {"a_": result_fields("fill-mask"), "a_num_": tokens})
