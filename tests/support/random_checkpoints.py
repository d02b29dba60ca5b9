"""Checkpoints for tests: made, read, and changed in place."""

import torch
from safetensors.torch import load_file, save_file
from weights import random_weights

from bigbird.checkpoint import CLASSES


def made(tiny_config, name, **overrides):
    """A random model of a class, its head's name and the configuration it needs."""
    if name == "BigBirdForCausalLM":
        overrides["is_decoder"] = True
    model = CLASSES[name](tiny_config.replace(**overrides))
    random_weights(model)
    return model.eval()


def answer(model):
    """A forward pass's first tensor, for ours and for transformers'."""
    ids = torch.arange(7, 47).view(1, 40)
    if type(model).__name__.endswith("MultipleChoice"):
        ids = ids.view(1, 2, 20)
    with torch.no_grad():
        return model(ids, return_dict=False)[0]


def rewrite(directory, change):
    """Changes the tensors of model.safetensors in place: `change` gets and returns a dict."""
    tensors = {key: tensor.clone() for key, tensor in load_file(directory / "model.safetensors").items()}
    save_file(change(tensors), directory / "model.safetensors", metadata={"format": "pt"})
