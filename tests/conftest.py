"""Small models and a small tokenizer that the tests share; nothing is downloaded."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from local_cluster import SHARED_MACHINE
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from weights import random_weights

from bigbird import BigBirdConfig
from bigbird.loading.pretrained import PretrainedModel

# Before Ray is imported, which reads them then.
os.environ.update(SHARED_MACHINE)
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
