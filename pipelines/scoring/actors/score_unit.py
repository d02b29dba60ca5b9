"""The job's class for Ray Data: the rows of one unit in, one finished output file out.

A row that kills its process again and again is found with the help of `actors.watch` and marked. Knows nothing of
command lines, nor of what is already done.
"""

import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import ray
from ray.util.metrics import Counter

from pipelines.scoring.actors.score_rows import Record, Records, Row, ScoreRows, Stage, Window
from pipelines.scoring.actors.tokenize_rows import prepared_rows
from pipelines.scoring.actors.watch import DEATHS_TO_MARK_A_ROW, Verdict, split_windows
from pipelines.scoring.inputs.units import READ_ERROR, REPLACES, SOURCE_FILE, SOURCE_ROW
from pipelines.scoring.ledger.parts import DamagedPartError, Footer, part_name, read_footer, read_part, write_part
from pipelines.scoring.ledger.ranges import ranges_of
from pipelines.scoring.report.summaries import join_scores, summarize
from pipelines.scoring.schemas import own_columns
from pipelines.scoring.storage import Place

COUNTED = ("documents", "tokens", "errors")

_WRITE_ATTEMPTS = 5


class ScoreUnit:
    """`map_batches` class of the job: the rows of one unit in, one finished output file, its name and summary out.

    Called again for a unit that is already written (Ray runs a call again when it loses the answer), it answers
    from the file's footer.
    """

    def __init__(
        self, stage: Stage, output: Place, run: str, schema: pa.Schema, watch: Any, report_interval_s: float
    ) -> None:
        self.output = output
        self.run = run
        self.schema = schema
        self.watch = watch
        self.worker = f"{ray.get_runtime_context().get_node_id()[:8]}-{os.getpid()}-{uuid.uuid4().hex[:4]}"
        self._counts = dict.fromkeys((*COUNTED, "busy_s"), 0.0)
        self._report_interval_s = report_interval_s
        self._reported = 0.0
        self._metrics = _metrics()
        self._report(now=True)  # there is a process; that it is loading the model is another kind of waiting
        self.scorer = ScoreRows(stage)

    def __call__(self, table: pa.Table) -> pa.Table:
        if table.num_rows == 0:
            return _answer([], [])
        replaces = table[REPLACES][0].as_py()
        prefix = self.scorer.stage.prefix
        ranges = ranges_of(table[prefix + SOURCE_FILE], table[prefix + SOURCE_ROW])
        name = replaces or part_name(self.run, ranges)
        if not replaces:
            written = self._written(name)
            if written is not None and written.run == self.run:
                return _answer([name], [written.summary])
        started = time.time()
        self.scorer.lost_and_doubled.clear()
        unit = f"{name}/{ranges[0][1]}"
        records = self._score(table, unit, ray.get(self.watch.begin.remote(unit)))
        scored = self.scorer.with_results(table, records).select(self.schema.names).cast(self.schema)
        summary = self._summary(scored)
        summary |= {"started": started, "finished": time.time(), "worker": self.worker, **self.scorer.lost_and_doubled}
        if replaces:
            digest = self._replace(name, scored)
        else:
            digest = self._write(name, scored, Footer(self.run, tuple(ranges), summary))
        self.watch.finish.remote(unit)
        self._counts["busy_s"] += time.time() - started
        self._report(now=True)
        return _answer([name], [summary | {"sha256": digest}])

    def _written(self, name: str) -> Footer | None:
        try:
            return read_footer(self.output.child(name))
        except DamagedPartError:
            return None

    def _score(self, table: pa.Table, unit: str, verdict: Verdict) -> list[Records]:
        """Records of all rows. Rows that are unreadable or marked reach the predictors as None, which costs nothing."""
        rows = self.scorer.stage.examples(table)
        num_scores = len(self.scorer.stage.scores)
        known: dict[int, Record] = {}
        for index, message in enumerate(table[READ_ERROR].to_pylist()):
            if message is not None:
                known[index] = {"error": {"type": "ReadError", "message": message, "retryable": False}}
        for index in verdict.marked:
            message = f"the process that scored this row died {DEATHS_TO_MARK_A_ROW} times"
            known[index] = {"error": {"type": "ProcessDied", "message": message, "retryable": False}}
        rows = [(None,) * num_scores if index in known else row for index, row in enumerate(rows)]
        windows = self.scorer.windows(rows)
        if verdict.deaths:
            stream = self._carefully(unit, rows, split_windows(windows, verdict.suspects))
        else:
            stream = self.scorer.records(rows, windows, prepared_rows(table))
        records = []
        for index, of_row in enumerate(stream):
            records.append((known[index],) * num_scores if index in known else of_row)
            self._count(records[-1])
        return records

    def _carefully(self, unit: str, rows: Sequence[Row], windows: Sequence[Window]) -> Iterator[Records]:
        for start, stop in windows:
            ray.get(self.watch.enter.remote(unit, start, stop))
            yield from self.scorer.score_alone(rows[start:stop])

    def _replace(self, name: str, scored: pa.Table) -> str:
        """Put rows that were scored again into their file. It keeps its times: throughput is that of whole files."""
        place = self.output.child(name)
        footer = read_footer(place)
        assert footer is not None, f"{place.name} was there when this start began"
        finished = read_part(place)
        whole = replace_rows(finished, scored, self.scorer.stage.prefix)
        times = {key: footer.summary[key] for key in ("started", "finished", "worker")}
        read = {what: footer.summary.get(what, 0) + count for what, count in self.scorer.lost_and_doubled.items()}
        summary = self._summary(whole) | times | read | {"rescored": time.time()}
        return self._write(name, whole, Footer(self.run, footer.ranges, summary))

    def _summary(self, table: pa.Table) -> dict[str, Any]:
        stage = self.scorer.stage
        return join_scores(
            {
                score.name: summarize(own_columns(table, score.results, stage.prefix, score.prefix), score.task)
                for score in stage.scores
            }
        )

    def _write(self, name: str, table: pa.Table, footer: Footer) -> str:
        for attempt in range(_WRITE_ATTEMPTS):
            try:
                return write_part(self.output, name, table, footer)
            except OSError:
                if attempt == _WRITE_ATTEMPTS - 1:
                    raise
                time.sleep(2**attempt)
        raise AssertionError

    def _count(self, records: Records) -> None:
        """Progress counts rows, their tokens once, and those that any score failed on; metrics count each score."""
        found = [(1, record.get("num_tokens") or 0, int(record.get("error") is not None)) for record in records]
        for key, values in zip(COUNTED, zip(*found, strict=True), strict=True):
            self._counts[key] += max(values)
            for score, value in zip(self.scorer.stage.scores, values, strict=True):
                if value:
                    self._metrics[key].inc(value, {"task": score.task})
        self._report()

    def _report(self, now: bool = False) -> None:
        clock = time.monotonic()
        if now or clock - self._reported >= self._report_interval_s:
            self._reported = clock
            self.watch.progress.remote(self.worker, dict(self._counts))


def replace_rows(finished: pa.Table, scored: pa.Table, prefix: str = "") -> pa.Table:
    """The rows of a finished file with those that were scored again in their new form, in the old order.

    By slices: Arrow can neither filter nor sort every type that a kept column may have, such as string_view.
    """
    before = finished.replace_schema_metadata(None).cast(scored.schema)
    newest: dict[tuple[str, int], tuple[pa.Table, int]] = {}  # of each row, by file and number: where it stands
    for table in (before, scored):
        origins = zip(table[prefix + SOURCE_FILE].to_pylist(), table[prefix + SOURCE_ROW].to_pylist(), strict=True)
        newest |= {origin: (table, index) for index, origin in enumerate(origins)}
    return pa.concat_tables(
        [table.slice(index, 1) for _, (table, index) in sorted(newest.items(), key=lambda item: item[0])]
    )


def _answer(names: list[str], summaries: list[Mapping[str, Any]]) -> pa.Table:
    texts = [json.dumps(summary) for summary in summaries]
    return pa.table({"part": pa.array(names, pa.string()), "summary": pa.array(texts, pa.string())})


def _metrics() -> dict[str, Any]:
    return {
        what: Counter(f"bigbird_scored_{what}", description=f"{what} scored by jobs", tag_keys=("task",))
        for what in COUNTED
    }
