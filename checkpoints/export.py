"""A training state becomes a checkpoint directory in Hugging Face format: float16 weights, configuration, tokenizer.

    python -m checkpoints.export --state out/pretrain.pt --task fill-mask --tokenizer checkpoints/fill-mask \\
        --output checkpoints/fill-mask

Of `pipelines.finetune` the state is the directory it wrote, which knows its own head.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch

from bigbird.checkpoint import load_model
from bigbird.heads import BigBirdForMaskedLM, BigBirdForTokenClassification
from bigbird.pretrained import PretrainedModel
from checkpoints.code_entities import LABELS
from checkpoints.demo_model import demo_config
from checkpoints.train_tagger import new_tagger

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def export(state: Path, task: str, tokenizer: Path, output: Path) -> None:
    """Write config.json, model.safetensors and the tokenizer's files into `output`."""
    model = load_model(state, dtype=torch.float32) if state.is_dir() else _from_training(state, task)
    output.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(output)
    for name in TOKENIZER_FILES:
        if tokenizer.resolve() != output.resolve():
            shutil.copyfile(tokenizer / name, output / name)


def _from_training(state: Path, task: str) -> PretrainedModel:
    weights = torch.load(state, weights_only=True)
    model: BigBirdForMaskedLM | BigBirdForTokenClassification
    if task == "fill-mask":
        model = BigBirdForMaskedLM(demo_config())
    elif "classifier.weight" not in weights["model"]:
        return new_tagger(state)  # straight from pre-training, not fine-tuned
    else:
        model = BigBirdForTokenClassification(demo_config().replace(id2label=dict(enumerate(LABELS))))
    model.load_state_dict(weights["model"])
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--task", choices=["fill-mask", "token-classification"], help="of a training state")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    export(arguments.state, arguments.task, arguments.tokenizer, arguments.output)


if __name__ == "__main__":
    main()
