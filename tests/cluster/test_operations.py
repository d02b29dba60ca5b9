"""The operations page: every alert is explained, every metric in a rule or a panel is one that is measured."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
PAGE = (CLUSTER / "operations.md").read_text()
RULES = [rule for group in yaml.safe_load((CLUSTER / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]
PANELS = json.loads((CLUSTER / "grafana_dashboard.json").read_text())["panels"]
QUERIES = [rule["expr"] for rule in RULES] + [t["expr"] for panel in PANELS for t in panel.get("targets", [])]


def our_metrics() -> set[str]:
    """Names as Prometheus shows them, from where they are made."""
    serving = "".join((ROOT / "serving" / room / "metrics.py").read_text() for room in ("http", "replicas"))
    names = set(re.findall(r'"(bigbird_\w+)"', serving))
    source = (ROOT / "pipelines" / "scoring" / "actors" / "score_unit.py").read_text()
    (whats,) = re.findall(r"^COUNTED = \(([^)]*)\)", source, re.MULTILINE)
    assert 'f"bigbird_scored_{what}"' in source
    return names | {f"bigbird_scored_{what}" for what in re.findall(r'"(\w+)"', whats)}


def test_every_alert_has_its_section():
    assert [rule["alert"] for rule in RULES] == re.findall(r"^### (\w+)$", PAGE, re.MULTILINE)


@pytest.mark.parametrize("query", QUERIES)
def test_every_metric_of_ours_in_a_query_is_one_that_is_measured(query):
    for name in re.findall(r"ray_(bigbird_\w+)", query):
        plain = {name, name.removesuffix("_total"), name.removesuffix("_bucket")}
        assert plain & our_metrics(), name


def test_the_dashboard_shows_every_metric_of_a_server_and_no_other():
    queries = [target["expr"] for panel in PANELS for target in panel.get("targets", [])]
    asked = {name for query in queries for name in re.findall(r"ray_(bigbird_\w+)", query)}
    made = {name for name in our_metrics() if not name.startswith("bigbird_scored_")}
    assert {re.sub("_(total|bucket|sum|count)$", "", name) for name in asked} == made


def test_every_alert_links_to_its_section():
    assert [rule["annotations"]["runbook_url"] for rule in RULES] == [
        f"operations.md#{rule['alert'].lower()}" for rule in RULES
    ]


def test_the_rules_do_what_their_tests_say():
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed here (the package prometheus has it): the alerts are NOT tested")
    tested = subprocess.run(
        [promtool, "test", "rules", CLUSTER / "alerts_test.yaml"], capture_output=True, text=True, timeout=60
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr


def sections() -> dict[str, str]:
    """What the page says of each alert, on one line."""
    parts = re.split(r"^### (\w+)$|^## .*$", PAGE, flags=re.MULTILINE)
    named = zip(parts[1::2], parts[2::2], strict=True)
    return {name: " ".join(text.split()) for name, text in named if name}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_section_says_what_its_rule_measures_for_how_long_and_how_urgent_it_is(rule):
    says = sections()[rule["alert"]]
    assert {"page": "Pages", "ticket": "A ticket"}[rule["labels"]["severity"]] in says.split(".")[0]
    if "for" in rule:
        assert f"{rule['for'].removesuffix('m')} minutes" in says
    for status in re.findall(r"\b[45]\d\d\b", rule["expr"]):
        assert status in says
    if "5.." in rule["expr"]:
        assert "500 or above" in says
    threshold = re.search(r"> ([\d.]+)", rule["expr"])
    words = {"0.01": "one request in a hundred", "0.05": "one request in twenty", "0.92": "92%"}
    if threshold and float(threshold[1]):
        assert words.get(threshold[1], threshold[1]) in says


def test_the_calculated_rates_follow_from_the_stated_matrix_rates():
    rows = re.findall(r"\| (\d+) TFLOP/s \| ([\d,]+) \| (\d+) \| ([\d.]+) G / p \|", PAGE)
    assert len(rows) == 4
    for tera, rate, documents, tokens_for_one in rows:
        tokens = 0.4 * float(tera) * 1e12 / 186e6
        assert float(rate.replace(",", "")) == pytest.approx(tokens, rel=0.02)
        assert float(documents) == pytest.approx(tokens / 4096, rel=0.02)
        assert float(tokens_for_one) == pytest.approx(tokens * 3600 / 1e9, abs=0.06)
