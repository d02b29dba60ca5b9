"""What tests of checkpoints share."""

import pytest
from random_checkpoints import made


@pytest.fixture
def saved(tiny_config, tmp_path):
    """A masked LM in a directory, and the model itself."""
    model = made(tiny_config, "BigBirdForMaskedLM")
    model.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved", model
