"""A finished output with its receipt, made by the parts of a job in this process, without Ray."""

import time

import pyarrow as pa
import pyarrow.parquet as pq

from bigbird.predictors import load_predictor
from pipelines.scoring.actors.pool import ScoreOptions
from pipelines.scoring.actors.score_rows import ScoreRows
from pipelines.scoring.checks import inspect_model
from pipelines.scoring.inputs.reading import READ_ERROR, read_unit
from pipelines.scoring.ledger.ledger import change_output
from pipelines.scoring.ledger.parts import Footer, part_name, write_part
from pipelines.scoring.ledger.ranges import ranges_of
from pipelines.scoring.plan import Job, plan_job
from pipelines.scoring.proof.receipt import computed_with, write_receipt
from pipelines.scoring.storage import make_writable
from pipelines.scoring.work import find_work


def finished_output(folder, task, model, examples, options=None, scores=()):
    """Scores examples, texts or mappings, of one task, or by several scores; returns where the output is."""
    if examples is not None:  # else a second start on the same
        rows = [{"text": example} if isinstance(example, str) else example for example in examples]
        pq.write_table(pa.Table.from_pylist(rows), folder / "in.parquet")
    output = folder / "out"
    scoring = ScoreOptions(task_options=options)
    job = Job(
        task=task,
        model=str(model) if model else "",
        scores=scores,
        inputs=[str(folder / "in.parquet")],
        output=str(output),
        options=scoring,
        keep=[],
        unit_bytes=1 << 20,
    )
    plan = plan_job(job, load_predictor, inspect_model, print)
    make_writable(plan.output)
    work = find_work(job, plan)
    ledger = work.ledger
    change_output(ledger, work.changes, plan.listing)
    for unit in work.units:
        table = read_unit(unit, plan.listing.filesystem, plan.read_schema)
        scored = ScoreRows(plan.stage)(table.drop_columns([READ_ERROR])).select(plan.schema.names).cast(plan.schema)
        ranges = tuple(ranges_of(scored["source_file"], scored["source_row"]))
        summary = {"finished": time.time()}
        write_part(ledger.output, part_name(ledger.run, ranges), scored, Footer(ledger.run, ranges, summary))
    ledger.finish(plan.listing)
    write_receipt(job, plan, ledger, computed_with(job, plan), {})
    return output
