"""What tests of checkpoints and tokenizers share."""

import pytest
from random_checkpoints import made
from tiny_predictors import train
from tokenizer_texts import SETTINGS

import bigbird
from bigbird.tokenization.tokenizer import BigBirdTokenizer


@pytest.fixture
def saved(tiny_config, tmp_path):
    """A masked LM in a directory, and the model itself."""
    model = made(tiny_config, "BigBirdForMaskedLM")
    model.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved", model


@pytest.fixture(scope="module", params=["byte-level", "sentence-piece"])
def both(request, tmp_path_factory):
    """Ours and transformers', of the same directory."""
    transformers = pytest.importorskip("transformers", reason="needs the extra named parity")
    directory = tmp_path_factory.mktemp(request.param)
    BigBirdTokenizer(train(request.param), SETTINGS).save_pretrained(directory)
    return bigbird.AutoTokenizer.from_pretrained(directory), transformers.AutoTokenizer.from_pretrained(directory)
