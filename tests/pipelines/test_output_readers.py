"""What a job leaves is a folder of rows to every reader of Parquet, and outputs of version 0.1 go on."""

import json

import datasets
import duckdb
import fastparquet
import pandas
import polars
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from pipelines.scoring.inputs.listing import list_inputs
from pipelines.scoring.inputs.reading import read_unit
from pipelines.scoring.inputs.units import SOURCE_FILE, SOURCE_ROW
from pipelines.scoring.ledger.ledger import open_output
from pipelines.scoring.ledger.parts import Footer, part_name, write_part
from pipelines.scoring.ledger.ranges import ranges_of
from pipelines.scoring.ledger.records import INPUTS_FILE, RUN_FILE, read_record
from pipelines.scoring.report.report import write_report
from pipelines.scoring.report.summaries import summarize
from pipelines.scoring.schemas import ERROR_TYPE, output_schema, result_fields
from pipelines.scoring.storage import locate

ROWS = 12
RESULTS = result_fields("masked-lm-scoring")


def begin(folder, **more):
    listing = list_inputs([str(folder / "in")])
    schema = output_schema(listing.schema, {"": RESULTS})
    fingerprint = {"task": "masked-lm-scoring", "input_columns": {"text": "text"}, **more}
    output = locate(str(folder / "out"))
    return open_output(output, fingerprint=fingerprint, listing=listing, schema=schema, unit_bytes=40), listing, schema


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A folder with a finished job, its results all null."""
    folder = tmp_path_factory.mktemp("job")
    (folder / "in").mkdir()
    pq.write_table(
        pa.table({"id": range(ROWS), "text": [f"text {n}" for n in range(ROWS)]}), folder / "in" / "a.parquet"
    )
    ledger, listing, schema = begin(folder)
    for unit in ledger.units_left(listing):
        rows = read_unit(unit, listing.filesystem, listing.schema)
        ranges = tuple(ranges_of(rows[SOURCE_FILE], rows[SOURCE_ROW]))
        for field in [*RESULTS, pa.field("error", ERROR_TYPE)]:
            rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
        summary = {**summarize(rows, "masked-lm-scoring"), "started": 0.0, "finished": 1.0, "worker": "w"}
        write_part(
            ledger.output, part_name(ledger.run, ranges), rows.select(schema.names), Footer(ledger.run, ranges, summary)
        )
    write_report(ledger.output)
    return folder


READERS = {
    "duckdb": lambda out: duckdb.connect().execute(f"select id from read_parquet('{out}/*.parquet')").fetchall(),
    "duckdb, all folders": lambda out: (
        duckdb.connect().execute(f"select id from read_parquet('{out}/**/*.parquet')").fetchall()
    ),
    "polars, the folder": lambda out: polars.read_parquet(out).rows(),
    "polars, a glob": lambda out: polars.scan_parquet(f"{out}/*.parquet").collect().rows(),
    "datasets, the folder": lambda out: datasets.load_dataset(out, split="train", cache_dir=f"{out}.cache1"),
    "datasets, as Parquet": lambda out: datasets.load_dataset(
        "parquet", data_dir=out, split="train", cache_dir=f"{out}.cache2"
    ),
    "pandas": lambda out: pandas.read_parquet(out).values,
    "fastparquet": lambda out: fastparquet.ParquetFile(out).to_pandas(columns=["id"]).values,
    "pyarrow": lambda out: pyarrow.dataset.dataset(out).to_table().to_pylist(),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_every_reader_of_the_folder_finds_each_row_once(job, reader, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = READERS[reader](str(job / "out"))
    assert sorted(row["id"] if isinstance(row, dict) else row[0] for row in found) == list(range(ROWS))


def test_an_output_of_version_0_1_goes_on_and_becomes_one_of_today(job):
    out = job / "out"
    run, inputs = (read_record(locate(str(out)), name) for name in (RUN_FILE, INPUTS_FILE))
    (out / RUN_FILE).unlink()
    (out / INPUTS_FILE).unlink()
    (out / "_run.json").write_text(json.dumps(run))
    pq.write_table(pa.Table.from_pylist(inputs), out / "_inputs.parquet")
    (out / "_report.html").write_text("<html>")
    some_part = next(out.glob("part-*"))
    some_part.unlink()
    ledger, listing, _ = begin(job, library="0.2.0")  # which 0.1 did not write
    assert ledger.num_done + sum(unit.rows for unit in ledger.units_left(listing)) == ROWS
    assert 0 < ledger.num_done < ROWS
    assert not list(out.glob("_*"))
    assert [read_record(ledger.output, name) for name in (RUN_FILE, INPUTS_FILE)] == [run, inputs]
