"""The operations page: every alert is explained, every metric in a rule or a panel is one that is measured."""

import json
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
CLUSTER = ROOT / "cluster"
PAGE = (CLUSTER / "operations.md").read_text()
RULES = [rule for group in yaml.safe_load((CLUSTER / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]
PANELS = json.loads((CLUSTER / "grafana_dashboard.json").read_text())["panels"]
QUERIES = [rule["expr"] for rule in RULES] + [t["expr"] for panel in PANELS for t in panel.get("targets", [])]


def our_metrics() -> set[str]:
    """Names as Prometheus shows them, from where they are made."""
    serving = (ROOT / "serving" / "metrics.py").read_text()
    names = set(re.findall(r'"(bigbird_\w+)"', serving))
    stages = (ROOT / "pipelines" / "stages.py").read_text()
    (whats,) = re.findall(r"for what in \(([^)]*)\)", stages)
    assert 'f"bigbird_scored_{what}"' in stages
    return names | {f"bigbird_scored_{what}" for what in re.findall(r'"(\w+)"', whats)}


def test_every_alert_has_its_section():
    assert [rule["alert"] for rule in RULES] == re.findall(r"^### (\w+)$", PAGE, re.MULTILINE)


@pytest.mark.parametrize("query", QUERIES)
def test_every_metric_of_ours_in_a_query_is_one_that_is_measured(query):
    for name in re.findall(r"ray_(bigbird_\w+)", query):
        plain = {name, name.removesuffix("_total"), name.removesuffix("_bucket")}
        assert plain & our_metrics(), name


def test_every_test_and_file_the_pages_name_exists():
    for page in CLUSTER.glob("*.md"):
        text = page.read_text()
        for name in re.findall(r"`(tests/\w+\.py)`", text):
            assert (ROOT / name).is_file(), f"{page.name}: {name}"
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
            assert (CLUSTER / target).exists(), f"{page.name}: {target}"


def test_the_calculated_rates_follow_from_the_stated_matrix_rates():
    rows = re.findall(r"\| (\d+) TFLOP/s \| ([\d,]+) \| (\d+) \|", PAGE)
    assert len(rows) == 4
    for tera, rate, documents in rows:
        tokens = 0.4 * float(tera) * 1e12 / 186e6
        assert float(rate.replace(",", "")) == pytest.approx(tokens, rel=0.02)
        assert float(documents) == pytest.approx(tokens / 4096, rel=0.02)
