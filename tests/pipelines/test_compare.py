"""pipelines.scoring.proof.compare: two records of a row."""

import pytest

from pipelines.scoring.proof.compare import differences

LABELS = [{"label": "a", "score": 0.5}, {"label": "b", "score": 0.49}]


@pytest.mark.parametrize(
    ("stored", "found", "where"),
    [
        (1.0, 1.00001, None),
        (1.0, 1.01, "x"),
        (float("nan"), float("nan"), None),
        (float("nan"), 1.0, "x"),
        (None, 1.0, "x"),
        (float("inf"), float("inf"), None),
        (float("inf"), float("-inf"), "x"),
        (float("inf"), 1.0, "x"),
        (100.0, 100.005, None),
        ("a", "b", "x"),
        (3, 4, "x"),
        ([1.0], [1.0, 2.0], "x"),
        ({"a": 1.0, "b": 2}, {"a": 1.0}, None),
        ({"a": [{"c": 1.0}]}, {"a": [{"c": 2.0}]}, "x.a[0].c"),
        (LABELS, LABELS[::-1], None),
        (LABELS, [LABELS[0], {"label": "c", "score": 0.49}], None),
        (LABELS, [LABELS[1], {"label": "c", "score": 0.5}], "x[0].label"),
        ([{**LABELS[0], "label": "z"}, LABELS[1]], LABELS, "x[0].label"),
    ],
)
def test_numbers_are_compared_within_the_tolerance_and_all_else_exactly(stored, found, where):
    off = differences(stored, found, 1e-4, "x")
    assert [place for place, *_ in off][:1] == ([] if where is None else [where])
