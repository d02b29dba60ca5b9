"""How the tests run beside each other, and small models and a tokenizer that they share; nothing is downloaded."""

import gc
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from local_cluster import SHARED_MACHINE
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from weights import random_weights

from bigbird import BigBirdConfig
from bigbird.loading.pretrained import PretrainedModel

# Before Ray is imported, which reads them then. In a folder of its own, a test finds no other Ray of this machine;
# a short one, for Ray's sockets lie below it, and a socket's path has 107 characters at most.
RAY_TMPDIR = tempfile.mkdtemp(prefix="bb-", dir="/tmp")
os.environ.update(SHARED_MACHINE, RAY_TMPDIR=RAY_TMPDIR)
# Ray Train takes one report of a worker at a look, and looks every 2 s if it is not told.
os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"
# On cores that other processes use as well, a thread spins until the other one has had its turn.
torch.set_num_threads(1)

# Shared machines are slow at times: speed is measured in benchmarks/, never by a deadline here.
# CI draws the same cases every time, so that it fails for a change and not for a draw; developers draw new ones.
settings.register_profile("project", deadline=None, max_examples=30, derandomize=bool(os.environ.get("CI")))
settings.load_profile("project")

SPECIAL_TOKENS = ["<pad>", "<s>", "</s>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
SAMPLE = """Long documents are read in blocks. Each block of tokens reads its neighbours, the first block and the last.
def tokenize(text: str) -> list[int]: raise ValueError("nothing to read") if not text else None
Paris is the capital of France; Zürich lies on a lake. 東京 café naïve Ελλάδα. 0123456789
"""


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """For xdist: tests of a file, or on the same Ray, stay together; those on Ray take longest, so they come first."""
    for item in items:
        if not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.location[0]))
    items.sort(key=lambda item: item.get_closest_marker("ray") is None)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Takes the group off a name to which xdist appended it: what is printed can be typed."""
    if "PYTEST_XDIST_WORKER" not in os.environ and report.nodeid.rfind("@") > report.nodeid.rfind("]"):
        report.nodeid = report.nodeid.rpartition("@")[0]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None]:
    """What a file's tests on Ray leave to the garbage collector goes with them: later, its warnings would be errors."""
    yield
    if item.get_closest_marker("ray") and not (
        nextitem and nextitem.get_closest_marker("ray") and nextitem.path == item.path
    ):
        with warnings.catch_warnings(action="ignore"):
            gc.collect()


def pytest_unconfigure() -> None:
    """Ends the Ray that the last module left."""
    if "ray_session" in sys.modules:
        sys.modules["ray_session"].end_ray()
    elif "ray" in sys.modules:
        sys.modules["ray"].shutdown()
    shutil.rmtree(RAY_TMPDIR, ignore_errors=True)


@pytest.fixture(scope="session")
def tiny_config() -> BigBirdConfig:
    """Sparse beyond 112 tokens, 512 positions."""
    return BigBirdConfig(
        vocab_size=512,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=512,
        block_size=16,
        num_random_blocks=1,
        sep_token_id=5,
    )


@pytest.fixture(scope="session")
def tiny_tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE of 512 tokens, `[CLS] A [SEP]` and `[CLS] A [SEP] B [SEP]`."""
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([SAMPLE], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 4), ("[SEP]", 5)]
    )
    directory = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory


@pytest.fixture(scope="session")
def tiny_checkpoint(
    tiny_config: BigBirdConfig, tiny_tokenizer_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """`tiny_checkpoint(BigBirdForMaskedLM, num_labels=3, ...)` -> a directory with config, weights and tokenizer."""

    def make(head_class: type[PretrainedModel], *, seed: int = 0, **overrides: object) -> Path:
        model = head_class(tiny_config.replace(**overrides))
        random_weights(model, seed)
        directory = tmp_path_factory.mktemp(head_class.__name__)
        model.save_pretrained(directory)
        (directory / "tokenizer.json").write_bytes((tiny_tokenizer_dir / "tokenizer.json").read_bytes())
        return directory

    return make
