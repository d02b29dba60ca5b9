"""What is known of a job before it starts, and proved of it afterwards, from the command line on one Ray."""

import json
import time

import pyarrow as pa
import pytest
from jobs import CountCharacters, command, model_info, parts, write_corpus
from ray_session import ON_TWO_CPUS

from bigbird import BigBirdForMaskedLM
from pipelines import score
from pipelines.scoring.estimate import estimate
from pipelines.scoring.ledger.lease import Lease
from pipelines.scoring.ledger.records import LEASE_FILE
from pipelines.scoring.storage import locate

ROWS = [f"{'word ' * (number % 7)}{number}" for number in range(60)]

pytestmark = ON_TWO_CPUS


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """The command line with the stand-in in the place of every model, and a corpus of 60 rows."""
    monkeypatch.setattr(score, "load_predictor", lambda *args, **kwargs: CountCharacters(""))
    monkeypatch.setattr(score, "inspect_model", model_info)
    write_corpus(tmp_path / "in" / "a.parquet", ROWS)


def tree(folder):
    """Every file and folder there is, with its content and times."""
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None) for path in folder.rglob("*")
    }


def test_a_dry_run_says_what_a_start_would_do_and_touches_nothing(stand_in, tmp_path, capsys):
    def dry_run(*more):
        before = tree(tmp_path)
        assert score.main([*command(tmp_path), "--dry-run", *more]) == 0
        assert tree(tmp_path) == before
        said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
        return {name: said[name] for name in ("files", "rows", "units", "actors", "output", "note") if name in said}

    size = (tmp_path / "in" / "a.parquet").stat().st_size
    fresh = dry_run()
    assert fresh == {
        "files": f"1, {size:,} bytes",
        "rows": "60: 0 done before, 60 to score",
        "units": fresh["units"],
        "actors": "1 of 2 CPUs",
        "output": f"{tmp_path / 'out'}: begun anew",
    }
    assert dry_run("--limit", "7")["rows"] == "60: 0 done before, 7 to score"
    (tmp_path / "out").mkdir()
    Lease(locate(str(tmp_path / "out")), pa.schema([]), print)._write()  # as another driver's, which renews it
    assert "writes to the output: until it ends, a start is refused" in dry_run("--limit", "7")["note"]
    (tmp_path / "out" / LEASE_FILE).unlink()
    assert score.main([*command(tmp_path), "--limit", "25"]) == 0
    done = len(parts(tmp_path))
    capsys.readouterr()
    left = dry_run()
    assert left["rows"] == "60: 25 done before, 35 to score"
    assert left["output"].endswith("goes on")
    assert int(fresh["units"].split(",")[0]) == int(left["units"].split(",")[0]) + done
    next(iter((tmp_path / "out").glob("part-*"))).write_bytes(b"damaged")
    assert "25 done" not in dry_run()["rows"]
    assert score.main(command(tmp_path)) == 0
    capsys.readouterr()
    finished = dry_run()
    assert (finished["rows"], "actors" in finished) == ("60: 60 done before, 0 to score", False)
    assert dry_run("--overwrite")["rows"] == "60: 0 done before, 60 to score"
    assert score.main([*command(tmp_path), "--dry-run", "--option", "num_passes=3"]) == 2
    assert "was begun by another run: task_options" in capsys.readouterr().err


def parts_of_a_start(monkeypatch):
    """Seconds until a start knows its work, and then until its actors are ready; filled while an estimate is made."""
    parts_s = []
    plan_job, find_work, timed = estimate.plan_job, estimate.find_work, estimate._timed

    def plans(*arguments):
        began = time.monotonic()
        plan = plan_job(*arguments)
        parts_s.append(time.monotonic() - began)
        return plan

    def finds(*arguments):
        began = time.monotonic()
        time.sleep(2.0)  # as where Ray has to be started first
        found = find_work(*arguments)
        parts_s.append(time.monotonic() - began)
        return found

    def times(*arguments):
        rates, loading_s = timed(*arguments)
        parts_s.append(loading_s)
        return rates, loading_s

    monkeypatch.setattr(estimate, "plan_job", plans)
    monkeypatch.setattr(estimate, "find_work", finds)
    monkeypatch.setattr(estimate, "_timed", times)
    return parts_s


def test_an_estimate_writes_itself_alone_and_stands_beside_what_the_job_then_took(
    tiny_checkpoint, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(estimate, "TIMED_S", 1.0)
    write_corpus(tmp_path / "in" / "a.parquet", [f"Paris is number {number}. " * (1 + number) for number in range(60)])
    model = str(tiny_checkpoint(BigBirdForMaskedLM))
    asked = [*command(tmp_path, "--model", model, "--target-file-size", "20K", "--price-per-hour", "3"), "--quiet"]
    before = tree(tmp_path)
    assert score.main([*asked, "--estimate", "--num-actors", "50"]) == 0
    elsewhere = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    parts_s = parts_of_a_start(monkeypatch)
    assert score.main([*asked, "--estimate"]) == 0
    assert json.loads((tmp_path / "out.estimate.json").read_text())["starting_s"] == pytest.approx(
        sum(parts_s), abs=0.1
    )
    said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert (elsewhere["actors"], said["actors"]) == ("50 on 25 machines", "1 on 1 machine")
    assert elsewhere["tokens"] == said["tokens"]
    assert "a million tokens" in said["cost"]
    left = {path: found for path, found in tree(tmp_path).items() if path not in before}
    assert set(left) == {tmp_path / "out.estimate.json"}
    assert score.main(asked) == 0
    costs = json.loads((tmp_path / "out.report.json").read_text())["costs"]
    assert costs["actual"]["tokens"] == pytest.approx(costs["predicted"]["tokens"], rel=0.2)
    assert costs["actual"]["tokens_doubled"] == pytest.approx(costs["predicted"]["tokens_doubled"], rel=0.2)
    assert costs["actual"]["tokens_doubled"] > 0
    assert costs["actual"]["cost"] == pytest.approx(3 * costs["actual"]["hours"])
    page = (tmp_path / "out.report.html").read_text()
    assert "actual to predicted" in page
    assert "cost per million tokens" in page
    assert score.main([*asked, "--estimate"]) == 0
    assert "nothing is left to score" in capsys.readouterr().out


def test_a_quiet_job_says_nothing_and_its_report_is_drawn_again_from_the_ledger(stand_in, tmp_path, capsys):
    assert score.main([*command(tmp_path), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    report = tmp_path / "out.report.json"
    before = json.loads(report.read_text())
    (tmp_path / "out.report.html").unlink()
    again = ["--report-only", "--output", str(tmp_path / "out"), "--report-documents", "1"]
    assert score.main(again) == 0
    after = json.loads(report.read_text())
    ends = after.pop("documents_at_the_ends")
    assert [document["text"] for end in ends for document in end["documents"]] == ["0", ROWS[13]]
    del before["documents_at_the_ends"]
    assert after == before
    assert (tmp_path / "out.report.html").exists()
    assert score.main(["--report-only", "--output", str(tmp_path / "in")]) == 2
    assert "is not the output of a scoring job" in capsys.readouterr().err
