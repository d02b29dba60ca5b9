"""The examples run on the shipped checkpoints, as a reader would run them."""

import sys

import pytest
from commands import run

from examples import heads


@pytest.mark.parametrize("name", heads.EXAMPLES)
def test_every_head_has_an_example_that_runs_on_its_shipped_checkpoint(name):
    shown = heads.EXAMPLES[name](heads.CHECKPOINTS / name)
    assert "nan" not in shown
    assert len(shown) > 20


@pytest.mark.ray
def test_a_corpus_is_scored_from_python_and_the_row_without_text_gets_an_error():
    said = run([sys.executable, "examples/score_corpus.py"])
    assert "ValueError EXCEPTION" in said
    assert "nothing: InputError" in said


@pytest.mark.ray
def test_a_corpus_on_s3_is_scored_to_s3():
    said = run([sys.executable, "examples/s3.py"])
    assert "('path', 'PARAMETER')" in said
