"""bigbird-score verify: an untouched output is proved, and whatever was changed of it is found and named."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from proved_outputs import finished_output
from ray_session import ON_TWO_CPUS

from bigbird import BigBirdForMaskedLM
from pipelines import score
from pipelines.scoring.ledger.parts import FOOTER_KEY, Footer, digest
from pipelines.scoring.ledger.records import RUN_FILE, read_record, write_record
from pipelines.scoring.scores import Score
from pipelines.scoring.storage import locate

pytestmark = ON_TWO_CPUS

TEXTS = [
    f"Paris is the capital of France, and number {number} lies on a lake. " * (1 + number % 9) for number in range(40)
]
TEXTS[7] = None


@pytest.fixture(scope="module")
def job(two_cpus, tmp_path_factory, tiny_checkpoint):
    """A job of two files that was stopped by a limit, proved, gone on with and finished. Its folder."""
    folder = tmp_path_factory.mktemp("proved")
    (folder / "in").mkdir()
    for number, half in enumerate((TEXTS[:20], TEXTS[20:])):
        table = pa.table(
            {"id": range(20 * number, 20 * number + 20), "text": half, "weight": [float("nan"), *[0.5] * 19]}
        )
        pq.write_table(table, folder / "in" / f"{number}.parquet", row_group_size=5)
    shutil.copytree(tiny_checkpoint(BigBirdForMaskedLM), folder / "model")
    command = ["--task", "masked-lm-scoring", "--model", str(folder / "model"), "--input", str(folder / "in")]
    command += ["--output", str(folder / "out"), "--num-actors", "1", "--target-file-size", "2K"]
    command += ["--option", "num_passes=2"]
    assert score.main([*command, "--limit", "25"]) == 3
    assert verified(folder / "out") == 0
    assert score.main(command) == 3
    return folder


def verified(output, *more):
    return score.main(["verify", str(output), "--sample", "40", "--seed", "1", *more])


@pytest.fixture
def copy(job, tmp_path):
    """The output again, with its receipt: a place to do harm."""
    shutil.copytree(job / "out", tmp_path / "out")
    shutil.copy(job / "out.receipt.json", tmp_path / "out.receipt.json")
    return tmp_path / "out"


def receipt_of(output):
    return json.loads(Path(f"{output}.receipt.json").read_text())


def redigested(output):
    """The receipt, made to say of the parts what they are now: the work of somebody who knows how."""
    receipt = receipt_of(output)
    for part in receipt["parts"]:
        part["sha256"] = hashlib.sha256((output / part["name"]).read_bytes()).hexdigest()
    Path(f"{output}.receipt.json").write_text(json.dumps(receipt))


def rewritten(path, change, footer=lambda footer: footer):
    table = pq.read_table(path, partitioning=None)
    metadata = dict(table.schema.metadata)
    table = pa.Table.from_pylist(change(table.to_pylist()), schema=table.schema.remove_metadata())
    metadata[FOOTER_KEY] = footer(Footer.loads(metadata[FOOTER_KEY])).dumps()
    pq.write_table(table.replace_schema_metadata(metadata), path, compression="zstd")


def refusals(output, capsys, *more):
    capsys.readouterr()
    assert verified(output, *more) == 1
    *lines, last = capsys.readouterr().err.splitlines()
    assert last.startswith("bigbird-score: not proved (--seed 1)")
    return lines


def test_an_untouched_output_of_several_starts_is_proved(job, capsys):
    assert verified(job / "out") == 0
    said = capsys.readouterr().out
    assert (
        "40 rows, the models and the inputs are those of the receipt; 40 rows scored again agree within 0.0001" in said
    )
    assert score.main(["verify", str(job / "out"), "--sample", "0"]) == 0
    assert score.main(["verify", str(job / "out"), "--sample", "3", "--model", str(job / "model")]) == 0


def test_the_receipt_has_the_digests_that_others_find(job):
    receipt = receipt_of(job / "out")
    parts = {path.name: path for path in (job / "out").glob("part-*")}
    assert {part["name"]: part["sha256"] for part in receipt["parts"]} == {
        name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in parts.items()
    }
    counted = duckdb.sql(f"select count(*), count(distinct id) from '{job}/out/part-*.parquet'").fetchall()
    assert counted == [(receipt["rows"], sum(part["rows"] for part in receipt["parts"]))] == [(40, 40)]
    (model,) = receipt["models"]
    assert model["files"] == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (job / "model").iterdir()
    }
    assert [file["rows"] for file in receipt["inputs"]["files"]] == [20, 20]
    event = receipt["openlineage"]
    assert {"eventTime", "producer", "schemaURL", "run", "job", "inputs", "outputs"} <= event.keys()
    (output,) = event["outputs"]
    assert output["outputFacets"]["outputStatistics"]["rowCount"] == 40
    fields = [field["name"] for field in output["facets"]["schema"]["fields"]]
    assert fields == pq.read_schema(next(iter(parts.values()))).names


def test_a_damaged_part_and_one_that_is_gone_or_came_are_found(copy, capsys):
    first, second, third, *_ = sorted(copy.glob("part-*"))
    first.write_bytes(first.read_bytes()[:-9])
    flipped = bytearray(second.read_bytes())
    flipped[40] ^= 1
    second.write_bytes(flipped)
    third.rename(third.with_name("part-other.parquet"))
    lines = "\n".join(refusals(copy, capsys, "--sample", "0"))
    for said in (
        f"{first.name} cannot be read",
        f"{first.name} is not the file that was written",
        f"{second.name} is not the file that was written",
        f"{third.name} is missing",
        "part-other.parquet is not in the receipt",
    ):
        assert said in lines


def test_values_that_were_altered_and_digested_again_are_found_by_file_row_column_and_both_values(copy, job, capsys):
    part = sorted(copy.glob("part-*"))[-1]
    before = {}

    def change(rows):
        before.update(rows[-1])
        return [*rows[:-1], rows[-1] | {"nll": rows[-1]["nll"] + 0.01, "weight": 0.75}]

    rewritten(part, change)
    redigested(copy)
    lines = refusals(copy, capsys)
    row = f"row {before['source_row']} of {before['source_file']}"
    assert lines == [
        f"bigbird-score: {row}, column weight: 0.75 in the output, 0.5 now",
        lines[1],
    ]
    assert lines[1].startswith(f"bigbird-score: {row}, column nll: {before['nll'] + 0.01!r} in the output, ")


def test_an_error_in_the_place_of_a_result_is_found(copy, capsys):
    error = {"type": "InputError", "message": "m", "retryable": False}
    part = sorted(copy.glob("part-*"))[-1]
    rewritten(part, lambda rows: [rows[0] | {"error": error, "nll": None}, *rows[1:]])
    redigested(copy)
    assert any("column error: 'InputError' in the output, None now" in line for line in refusals(copy, capsys))


def test_another_model_is_found(copy, job, tmp_path, tiny_checkpoint, capsys):
    other = tiny_checkpoint(BigBirdForMaskedLM, seed=1)
    assert refusals(copy, capsys, "--model", str(other)) == [
        f"bigbird-score: the model at {other} is not that of the receipt"
    ]
    receipt = receipt_of(copy)  # and where a receipt was made to name the other one, its rows tell
    shutil.copytree(other, tmp_path / "model")
    from pipelines.scoring.checks import digest_of

    receipt["models"][0] |= {"location": str(tmp_path / "model"), "sha256": digest_of(tmp_path / "model")}
    Path(f"{copy}.receipt.json").write_text(json.dumps(receipt))
    assert sum(", column nll: " in line for line in refusals(copy, capsys)) > 20


def test_other_options_are_found(copy, capsys):
    run = read_record(locate(str(copy)), RUN_FILE)
    schema = pq.read_schema(next(iter(copy.glob("part-*")))).remove_metadata()
    run["fingerprint"]["task_options"]["num_passes"] = 3
    write_record(locate(str(copy)), RUN_FILE, run, schema)
    assert "the options of the output are not those of the receipt" in refusals(copy, capsys, "--sample", "0")[0]
    receipt = receipt_of(copy) | {"fingerprint": run["fingerprint"], "run": digest(run["fingerprint"])}
    Path(f"{copy}.receipt.json").write_text(json.dumps(receipt))
    assert "belongs to another run" in refusals(copy, capsys, "--sample", "0")[0]
    for part in copy.glob("part-*"):
        rewritten(part, lambda rows: rows, lambda footer: Footer(receipt["run"], footer.ranges, footer.summary))
    redigested(copy)
    assert sum(", column nll: " in line for line in refusals(copy, capsys)) > 20


def test_rows_moved_between_files_are_found(copy, job, capsys):
    one, *_, other = sorted(copy.glob("part-*"))
    moved = pq.read_table(other, partitioning=None).to_pylist()[0]
    rewritten(one, lambda rows: [moved, *rows[1:]])
    redigested(copy)
    assert any(f"{one.name} holds other rows than its footer says" in line for line in refusals(copy, capsys))
    # Of the inputs, with sizes and times as they were: what is kept of a row is compared as well.
    files = [job / "in" / f"{number}.parquet" for number in range(2)]
    before = [(path.read_bytes(), path.stat()) for path in files]
    try:
        for path, (content, stat) in zip(files, reversed(before), strict=True):
            path.write_bytes(content)
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        lines = refusals(job / "out", capsys)
        assert any("changed: " in line for line in lines) or any("column id: " in line for line in lines)
    finally:
        for path, (content, stat) in zip(files, before, strict=True):
            path.write_bytes(content)
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert verified(job / "out") == 0


def test_inputs_that_changed_or_went_are_found_and_what_came_is_said(job, tmp_path, capsys):
    shutil.copytree(job / "in", tmp_path / "in")
    lines = refusals(job / "out", capsys, "--sample", "0", "--input", str(tmp_path / "in"))
    assert [line.rpartition(" is ")[2] for line in lines] == ["not there any more"] * 2
    new = [job / "in" / f"{number}.parquet" for number in range(2, 7)]
    for path in new:
        pq.write_table(pa.table({"id": [99], "text": ["new"], "weight": [1.0]}), path)
    try:
        assert verified(job / "out") == 0
        said = capsys.readouterr().out
        assert "2.parquet came since" in said
        assert "and 2 more inputs that came since" in said
    finally:
        for path in new:
            path.unlink()


def test_what_cannot_be_proved_is_refused(job, copy, capsys):
    receipt = Path(f"{copy}.receipt.json")
    for content in (b'{"version', b"[]", b'{"version": 1}', b'{"version": 0}'):
        receipt.write_bytes(content)
        assert verified(copy) == 2
    receipt.unlink()
    assert verified(copy) == 2
    assert verified(job / "out", "--sample", "-1") == 2
    assert verified(job / "out", "--sample", "0", "--endpoint", "http://127.0.0.1:9") == 2
    assert verified(job / "out", "--model", "/no/where") == 2
    for url in ("http://127.0.0.1:9", "127.0.0.1:9", "file:///etc"):
        assert verified(job / "out", "--endpoint", url) == 2
    said = capsys.readouterr().err.splitlines()
    damaged = (*[f"receipt '{receipt}' is damaged"] * 3, "has version 0, expected 1")
    addresses = (
        "does not answer: ConnectionRefusedError",
        "endpoint '127.0.0.1:9': expected http://",
        "endpoint 'file:///etc'",
    )
    told = (
        *damaged,
        f"no receipt: a job that ends leaves it at '{receipt}'",
        "sample is -1",
        "but sample is 0",
        "/no/where",
        *addresses,
    )
    for line, part in zip(said, told, strict=True):
        assert line.startswith("bigbird-score: ")
        assert part in line


def test_an_output_of_several_scores_is_proved_and_a_value_of_one_is_found(tiny_checkpoint, tmp_path, capsys):
    scores = [
        Score(name="lm", task="masked-lm-scoring", model=str(tiny_checkpoint(BigBirdForMaskedLM))),
        Score(name="masks", task="fill-mask", model=str(tiny_checkpoint(BigBirdForMaskedLM, seed=3))),
    ]
    output = finished_output(tmp_path, "", None, ["Paris is [MASK].", "no mask", "[MASK] lakes"], scores=scores)
    assert verified(output) == 0
    (part,) = output.glob("part-*")
    rewritten(part, lambda rows: [rows[0] | {"lm_nll": 7.0}, *rows[1:]])
    redigested(output)
    (line,) = refusals(output, capsys)
    assert ", column lm_nll: 7.0 in the output, " in line
    (tmp_path / "in.parquet").unlink()
    assert "does not exist" in refusals(output, capsys)[-1]


def test_a_start_does_not_vouch_for_a_file_that_changed_since_the_receipt_before(tiny_checkpoint, tmp_path, capsys):
    output = finished_output(tmp_path, "masked-lm-scoring", tiny_checkpoint(BigBirdForMaskedLM), ["a lake", "Paris"])
    (part,) = output.glob("part-*")
    before = receipt_of(output)["parts"]
    rewritten(part, lambda rows: [rows[0] | {"nll": 7.0}, *rows[1:]])
    finished_output(tmp_path, "masked-lm-scoring", receipt_of(output)["models"][0]["location"], None)
    assert receipt_of(output)["parts"][0]["sha256"] == before[0]["sha256"]
    assert "is not the file that was written" in refusals(output, capsys)[0]
