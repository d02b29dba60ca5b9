"""pipelines.scoring.report.report: summaries that add up to report, and a page with everything in it."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pytest

from bigbird.errors import InputError
from pipelines.scoring.ledger.parts import Footer, read_parts, write_part
from pipelines.scoring.ledger.ranges import ranges_of
from pipelines.scoring.ledger.records import RUN_FILE, write_record
from pipelines.scoring.report.chart import Bar, bar_chart
from pipelines.scoring.report.cost import costs
from pipelines.scoring.report.page import page
from pipelines.scoring.report.report import collect, redraw_report, write_report
from pipelines.scoring.report.summaries import SCORES, scores, summarize
from pipelines.scoring.schemas import TASKS, output_schema, record_columns, result_fields
from pipelines.scoring.storage import locate

COUNTS = {"num_tokens": 5, "num_windows": 1, "truncated": False}
RECORDS = {
    "fill-mask": {"masks": [{"position": 0, "candidates": [{"token": 1, "token_str": "a", "score": 0.5}]}]},
    "masked-lm-scoring": {"nll": 2.0, "pseudo_perplexity": 7.4},
    "token-classification": {
        "entities": [{"entity_group": "PER", "score": 0.75, "word": "Ada", "text": "Ada", "start": 0, "end": 3}]
    },
    "text-classification": {"labels": [{"label": "good", "score": 0.9}, {"label": "bad", "score": 0.1}]},
    "zero-shot-classification": {"labels": [{"label": "news", "score": 0.9}, {"label": "law", "score": 0.1}]},
    "multiple-choice": {"choices": [0.2, 0.8], "best": 1},
    "question-answering": {"answer": "Ada", "score": 0.25, "start": 0, "end": 3},
    "feature-extraction": {"embedding": [0.0, 1.0]},
    "text-generation": {
        "generated_text": "and so on",
        "finish_reason": "length",
        "num_prompt_tokens": 5,
        "num_generated_tokens": 3,
    },
}
FAILED = {"error": {"type": "InputError", "message": "text is empty", "retryable": False}}
EXPECTED = {"fill-mask": 0.5, "masked-lm-scoring": 2.0, "token-classification": 0.75, "text-classification": 0.9}
EXPECTED |= {
    "zero-shot-classification": 0.9,
    "multiple-choice": 0.8,
    "question-answering": 0.25,
    "text-generation": 3.0,
}


def scored(task, records, texts, start=0):
    fields = result_fields(task)
    given = pa.table({"text": pa.array(texts, pa.string())})
    schema = output_schema(given.schema, {"": fields})
    origin = [pa.array(["in.parquet"] * len(texts)), pa.array(range(start, start + len(texts)))]
    return pa.table([given["text"], *record_columns(records, task, fields), *origin], schema=schema)


def write(output, task, records, texts, start=0, **times):
    table = scored(task, records, texts, start)
    summary = summarize(table, task) | {"started": 0.0, "finished": 10.0, "worker": "w1"} | times
    ranges = tuple(ranges_of(table["source_file"], table["source_row"]))
    write_part(output, f"part-{start}.parquet", table, Footer("run", ranges, summary))


@pytest.fixture
def output(tmp_path):
    place = locate(str(tmp_path))
    run = {"fingerprint": {"task": "token-classification", "input_columns": {"text": "text"}}}
    write_record(place, RUN_FILE, run, pa.schema([]))
    task = "token-classification"
    good = {**RECORDS[task], **COUNTS}
    write(place, task, [good, FAILED], ["Ada <b>& Charles</b>", None])
    sure = {"entities": [{**RECORDS[task]["entities"][0], "score": 0.99}], **COUNTS, "num_tokens": 90}
    write(place, task, [sure], ["Ada again"], start=2, started=10.0, finished=20.0, worker="w2")
    return place


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_a_summary_and_rows_without_result_are_no_score(task):
    table = scored(task, [{**RECORDS[task], **COUNTS}, FAILED], ["text", None])
    values = scores(table, task)
    summary = summarize(table, task)
    assert (summary["documents"], summary["tokens"], summary["errors"]) == (2, 5, {"InputError": 1})
    assert values[1] != values[1]
    if task in SCORES:
        assert values[0] == EXPECTED[task]
        assert summary["lowest"] == summary["highest"] == [["in.parquet", 0, EXPECTED[task]]]
    json.dumps(summary)


def test_summaries_of_files_add_up(output):
    report = collect(output, documents=3)
    assert (report["documents"], report["tokens"], report["files"], report["errors"]) == (3, 95, 2, {"InputError": 1})
    assert sum(b["documents"] for b in report["tokens_per_document"]) == 2
    assert [b for b in report["tokens_per_document"] if b["documents"]] == [
        {"from": 4, "to": 7, "documents": 1},
        {"from": 64, "to": 127, "documents": 1},
    ]
    width = 20.0 / len(report["throughput"])
    assert sum(point["tokens_per_s"] for point in report["throughput"]) * width == pytest.approx(95, rel=0.01)
    assert [(actor["actor"], actor["files"], actor["busy"]) for actor in report["actors"]] == [
        ("w1", 1, 1),
        ("w2", 1, 1),
    ]
    least, most = report["documents_at_the_ends"]
    assert (least["end"], least["documents"][0]["row"]) == ("least confident", 0)
    assert (most["end"], most["documents"][0]["row"]) == ("most confident", 2)


def test_the_time_between_two_starts_is_no_time_of_the_job(output):
    write(output, "token-classification", [FAILED], [None], start=3, started=10_000.0, finished=10_010.0)
    times = [point["after_s"] for point in collect(output)["throughput"]]
    assert max(times) < 30
    assert times[1] == pytest.approx(30 / len(times), abs=0.001)


def test_an_answer_far_into_a_context_is_shown_where_it_stands_and_marked(tmp_path):
    place = locate(str(tmp_path))
    columns = {"question": "question", "context": "doc.body"}
    run = {"fingerprint": {"task": "question-answering", "input_columns": columns}}
    write_record(place, RUN_FILE, run, pa.schema([]))
    body = "x" * 5000 + "Ada" + "y" * 5000
    record = {"answer": "Ada", "score": 0.25, "start": 5000, "end": 5003, **COUNTS}
    fields = result_fields("question-answering")
    given = {"question": ["Who?"], "doc": [{"body": body}], "source_file": ["in"], "source_row": [0]}
    found = record_columns([record], "question-answering", fields)
    table = pa.table({**given, **dict(zip([*(field.name for field in fields), "error"], found, strict=True))})
    summary = summarize(table, "question-answering") | {"started": 0.0, "finished": 1.0, "worker": "w"}
    write_part(place, "part-0.parquet", table, Footer("run", (("in", 0, 1),), summary))
    (document,) = collect(place, documents=3)["documents_at_the_ends"][0]["documents"]
    (span,) = document["entities"]
    assert document["context"][span["start"] : span["end"]] == "Ada"
    assert (document["context"][0], document["context"][-1], document["question"]) == ("…", "…", "Who?")
    reader = Reader()
    reader.feed(page(collect(place, documents=3)))
    assert reader.marked == ["Ada", "Ada"]


@pytest.mark.parametrize(
    ("task", "label"),
    [("fill-mask", {"label": "a", "score": 0.5}), ("text-classification", {"label": "good", "score": 0.9})],
)
def test_what_was_found_in_a_document_is_shown_beside_it(tmp_path, task, label):
    place = locate(str(tmp_path))
    run = {"fingerprint": {"task": task, "input_columns": {"text": "text"}}}
    write_record(place, RUN_FILE, run, pa.schema([]))
    write(place, task, [{**RECORDS[task], **COUNTS}], ["a text"])
    (document,) = collect(place, documents=3)["documents_at_the_ends"][0]["documents"]
    assert document["labels"][0] == label


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.outside, self.marked = [], [], []

    def handle_starttag(self, tag, attributes):
        self.outside += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "rect"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag != "rect":
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "mark":
            self.marked.append(data)


def test_the_page_is_whole_needs_nothing_from_elsewhere_and_escapes_texts(output):
    write_report(output, documents=3, starting_s=4.25)
    html = Path(f"{output.path}.report.html").read_text()
    reader = Reader()
    reader.feed(html)
    assert reader.open == []
    assert reader.outside == []
    assert not re.search(r"<script|@import|url\(", html)
    assert reader.marked.count("Ada") == 4  # each of the two documents stands at both ends
    assert "&lt;b&gt;&amp; Charles&lt;/b&gt;" in html
    assert re.search(r"<b>4\.[23]</b>seconds of starting", html)
    assert json.loads(Path(f"{output.path}.report.json").read_text()) == collect(output, documents=3) | {
        "starting_s": 4.25,
        "costs": costs(output, read_parts(output), starting_s=4.25),
    }


def test_a_page_of_nothing_but_errors_is_drawn(tmp_path):
    place = locate(str(tmp_path))
    run = {"fingerprint": {"task": "fill-mask", "input_columns": {"text": "text"}}}
    write_record(place, RUN_FILE, run, pa.schema([]))
    write(place, "fill-mask", [FAILED], [None])
    assert "InputError" in page(collect(place, documents=3))


def test_a_damaged_report_is_named_where_it_is_to_be_drawn_again(output):
    write_report(output)
    for content in ("{", "5"):
        Path(f"{output.path}.report.json").write_text(content)
        with pytest.raises(InputError, match=r"\.report\.json' is damaged"):
            redraw_report(output)


def test_texts_of_documents_are_in_the_report_as_far_as_asked(output):
    for documents in (0, 1, 3):
        write_report(output, documents=documents)
        for suffix in (".report.html", ".report.json"):
            said = Path(f"{output.path}{suffix}").read_text()
            assert ("Ada" in said) == (documents > 0)
        shown = collect(output, documents=documents)["documents_at_the_ends"]
        assert all(len(end["documents"]) <= documents for end in shown)


def test_a_bar_stands_as_high_as_its_value_between_the_ticks():
    given = [Bar(0, 5, 30), Bar(5, 10, 120), Bar(10, 15, 0)]
    svg = bar_chart("A title", given, below="seconds", beside="tokens a second")
    labels = re.findall(r'y="([\d.]+)" text-anchor=end>([\d,.]+)<', svg)
    ticks = {float(value.replace(",", "")): float(y) - 4 for y, value in labels}
    rects = re.findall(r'<rect [^>]*y="([\d.]+)"[^>]*height="([\d.]+)"', svg)
    bars = [(float(y), float(height)) for y, height in rects]
    assert len(ticks) >= 4
    low, high = min(ticks), max(ticks)
    assert high >= 120
    for value, (top, height) in zip((30, 120, 0), bars, strict=True):
        assert top == pytest.approx(ticks[low] + (ticks[high] - ticks[low]) * (value - low) / (high - low), abs=0.1)
        assert top + height == pytest.approx(ticks[0], abs=0.1)
    edges = re.findall(r"text-anchor=middle>([\d,]+)<", svg)
    assert edges == ["0", "5", "10", "15"]
    assert "seconds</text>" in svg
    assert "tokens a second</text>" in svg
