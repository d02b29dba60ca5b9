"""pipelines.scoring.estimate: a sample's tokens are those of the corpus, and what follows from them."""

import json
import random
from dataclasses import asdict

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from bigbird import BigBirdForCausalLM, BigBirdForSequenceClassification
from bigbird.predictors import OPTIONS, load_predictor
from pipelines.scoring.actors.pool import ScoreOptions
from pipelines.scoring.checks import inspect_model
from pipelines.scoring.estimate import sample
from pipelines.scoring.estimate.estimate import Estimate, Tokens, extrapolated, tokenized
from pipelines.scoring.ledger.ledger import read_output
from pipelines.scoring.plan import Job, fingerprint, plan_job
from pipelines.scoring.report.cost import ESTIMATE_SUFFIX, costs
from pipelines.scoring.schemas import InputColumns
from pipelines.scoring.scores import Score
from pipelines.scoring.storage import locate, write_whole

WORDS = [
    "Long",
    "documents",
    "are",
    "read",
    "in",
    "blocks",
    "each",
    "block",
    "of",
    "tokens",
    "reads",
    "its",
    "neighbours",
    "Paris",
    "Zürich",
    "def",
    "return",
    "None",
]


def words(rng, count):
    return " ".join(rng.choices(WORDS, k=count))


def sorted_by_length(folder):
    """Parquet whose lengths grow from file to file, tail and all, with a script of other tokens in the last."""
    rng = random.Random(1)
    counts = sorted(int(rng.lognormvariate(2.5, 1.3)) + 1 for _ in range(3000))
    texts = [words(rng, count) for count in counts]
    texts[2900:] = ["東京 " * (count // 2 + 1) for count in counts[2900:]]
    texts[5] = None
    for number in range(3):
        table = pa.table({"text": texts[1000 * number : 1000 * number + 1000]})
        pq.write_table(table, folder / f"{number}.parquet", row_group_size=100)
    return texts, InputColumns()


def few_long_among_many_short(folder):
    """JSON lines of which 30 in 3,000 hold most of the text, in a field of a struct."""
    rng = random.Random(2)
    texts = [words(rng, 2000 if number % 100 == 42 else rng.randint(1, 12)) for number in range(3000)]
    lines = (json.dumps({"id": number, "doc": {"body": text}}) for number, text in enumerate(texts))
    (folder / "in.jsonl").write_text("\n".join(lines))
    return texts, InputColumns(text="doc.body")


@pytest.mark.parametrize("on_long", ["window", "truncate"])
@pytest.mark.parametrize("corpus", [sorted_by_length, few_long_among_many_short])
def test_tokens_lost_and_doubled_are_estimated_within_a_fifth(
    corpus, on_long, tiny_checkpoint, tiny_tokenizer_dir, tmp_path, monkeypatch
):
    monkeypatch.setattr(sample, "STRETCH_BYTES", 2 << 10)
    monkeypatch.setattr(sample, "READ_BYTES", 256 << 10)
    monkeypatch.setattr(sample, "TOKENIZED_BYTES", 40_000)
    (tmp_path / "in").mkdir()
    texts, columns = corpus(tmp_path / "in")
    task = "text-classification"
    options = OPTIONS[task](max_length=62, window_overlap=20, on_long=on_long)
    job = Job(
        task=task,
        model=str(tiny_checkpoint(BigBirdForSequenceClassification, num_labels=2)),
        inputs=[str(tmp_path / "in")],
        output=str(tmp_path / "out"),
        options=ScoreOptions(columns=columns, task_options=options),
    )
    plan = plan_job(job, load_predictor, inspect_model, print)
    ledger, _ = read_output(plan.output, fingerprint(job, plan), plan.listing, plan.schema, 1 << 20)
    drawn = sample.draw(plan, ledger, None, seed=0)
    assert sum(stratum.rows.num_rows for stratum in drawn.strata) < 700
    found = extrapolated(drawn, [tokenized(plan.stage, stratum) for stratum in drawn.strata])
    tokenizer = Tokenizer.from_file(str(tiny_tokenizer_dir / "tokenizer.json"))
    given = [text for text in texts if text]
    counts = [len(encoding.ids) for encoding in tokenizer.encode_batch(given, add_special_tokens=False)]
    lost = sum(max(0, count - 60) for count in counts) if on_long == "truncate" else 0
    # The fewest windows of 60 that overlap by 20, all of one length.
    windows = [1 if count <= 60 else -((20 - count) // 40) for count in counts]
    read = [-(-(count + (n - 1) * 20) // n) * n for count, n in zip(counts, windows, strict=True)]
    doubled = sum(read) - sum(counts) if on_long == "window" else 0
    assert found.tokens == pytest.approx(sum(counts) - lost, rel=0.2)
    assert found.lost == pytest.approx(lost, rel=0.2)
    assert found.doubled == pytest.approx(doubled, rel=0.2)
    assert abs(found.tokens - sum(counts) + lost) < 4 * found.error * found.tokens + 1
    limited = sample.draw(plan, ledger, 100, seed=0)
    assert limited.num_read <= 100


ESTIMATE = Estimate(
    rows=1000,
    sampled=90,
    found=Tokens(tokens=2e6, read=2.1e6, lost=5.0, doubled=7.0, truncated=3.0, error=0.02),
    actors=64,
    machines=4,
    seconds=7200.0,
    error_s=360.0,
    starting_s=20.0,
    price_per_hour=1.5,
    taken=1000.0,
)


def test_the_cost_is_that_of_all_machines_and_has_a_range():
    said = dict(line.split(maxsplit=1) for line in ESTIMATE.lines)
    assert said["actors"] == "64 on 4 machines"
    assert said["tokens"] == "2,000,000  (1,920,000 to 2,080,000)"
    assert said["hours"] == "2  (1.8 to 2.2), with 20 s to start"
    assert said["cost"] == "12  (10.8 to 13.2), 6 a million tokens"


class Part:
    def __init__(self, started, finished, worker):
        counts = {"documents": 500, "tokens": 900_000, "lost": 3, "doubled": 4}
        self.summary = counts | {"started": started, "finished": finished, "worker": worker}


def test_what_a_job_took_stands_beside_what_was_predicted_of_the_same_rows(tmp_path):
    output = locate(str(tmp_path / "out"))
    before = Part(10.0, 20.0, "a-1-x")  # done before the estimate
    parts = {"0": before, "1": Part(2000.0, 3800.0, "a-1-x"), "2": Part(2000.0, 5600.0, "b-2-y")}
    for damaged in (None, b"", b"{", b"[]", b"{}"):
        if damaged is not None:
            write_whole(output.beside(ESTIMATE_SUFFIX), damaged)
        alone = costs(output, parts, price_per_hour=2.0)
        assert alone["predicted"] is None
    assert (alone["actual"]["rows"], alone["machines"]) == (1500, 2)
    write_whole(output.beside(ESTIMATE_SUFFIX), json.dumps(asdict(ESTIMATE)).encode())
    both = costs(output, parts, starting_s=36.0)
    assert both["predicted"] == {
        "rows": 1000,
        "tokens": 2_000_000,
        "tokens_lost": 5,
        "tokens_doubled": 7,
        "hours": 2.0,
        "cost": 12.0,
        "cost_per_million_tokens": 6.0,
    }
    actual = both["actual"]
    assert (actual["rows"], actual["tokens"], actual["tokens_lost"], actual["tokens_doubled"]) == (
        1000,
        1_800_000,
        6,
        8,
    )
    assert actual["hours"] == pytest.approx(1.01)
    assert actual["cost"] == pytest.approx(1.01 * 1.5 * 2)
    assert costs(output, {"0": before})["predicted"] is None


def test_a_row_with_a_null_in_what_one_score_reads_counts_for_the_other(tiny_checkpoint, tmp_path):
    model = str(tiny_checkpoint(BigBirdForSequenceClassification, num_labels=2))
    rows = [{"text": "Paris lies on a lake", "doc": None}, {"text": None, "doc": "Paris is a capital"}] * 5
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    columns = InputColumns(text="text", prompt="doc")
    generator = str(tiny_checkpoint(BigBirdForCausalLM, is_decoder=True))
    scores = [
        Score(name="a", task="text-classification", model=model),
        Score(name="b", task="text-generation", model=generator),
    ]
    options = ScoreOptions(columns=columns)
    job = Job(inputs=[str(tmp_path / "in.parquet")], output=str(tmp_path / "out"), scores=scores, options=options)
    plan = plan_job(job, load_predictor, inspect_model, print)
    ledger, _ = read_output(plan.output, fingerprint(job, plan), plan.listing, plan.schema, 1 << 20)
    drawn = sample.draw(plan, ledger, None, seed=0)
    assert sum(stratum.rows.num_rows for stratum in drawn.strata) == 10
    assert sum(stratum.num_bytes for stratum in drawn.strata) == sum(len(row["text"] or row["doc"]) for row in rows)
