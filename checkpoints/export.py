"""A training state becomes a checkpoint directory in Hugging Face format: float16 weights, configuration, tokenizer.

    python -m checkpoints.export --state out/pretrain.pt --tokenizer checkpoints/fill-mask --output out/pretrained

The state is that of `checkpoints.pretrain`, a masked language model, or the directory that `pipelines.finetune` wrote,
which knows its own head.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch

from bigbird.checkpoint import load_model
from bigbird.heads import BigBirdForMaskedLM
from bigbird.loading.pretrained import PretrainedModel
from checkpoints.demo_model import demo_config

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def export(state: Path, tokenizer: Path, output: Path) -> None:
    """Write config.json, model.safetensors and the tokenizer's files into `output`."""
    model = load_model(state, dtype=torch.float32) if state.is_dir() else _from_pretraining(state)
    output.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(output)
    for name in TOKENIZER_FILES:
        if tokenizer.resolve() != output.resolve():
            shutil.copyfile(tokenizer / name, output / name)


def _from_pretraining(state: Path) -> PretrainedModel:
    model = BigBirdForMaskedLM(demo_config())
    model.load_state_dict(torch.load(state, weights_only=True)["model"])
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    export(arguments.state, arguments.tokenizer, arguments.output)


if __name__ == "__main__":
    main()
