"""The examples run on the shipped checkpoints, as a reader would run them."""

import pytest

from examples import heads


@pytest.mark.parametrize("name", heads.EXAMPLES)
def test_every_head_has_an_example_that_runs_on_its_shipped_checkpoint(name):
    shown = heads.EXAMPLES[name](heads.CHECKPOINTS / name)
    assert "nan" not in shown
    assert len(shown) > 20
