"""Run by the Python of an environment with transformers 4.37.2, not by pytest: checkpoints in, results out.

    python transformers_437.py REQUEST ANSWER

REQUEST: torch-saved list of {"head", "directory", "inputs"}. ANSWER: for each, a dict of output tensors, in training
mode, and the gradients by parameter name. Each request gets a fresh model: theirs remembers earlier inputs.
"""

import sys

import torch
import transformers


def answer(request: dict) -> dict:
    model = getattr(transformers, request["head"]).from_pretrained(request["directory"])
    output = model.train()(**request["inputs"])
    tensors = {name: value.detach() for name, value in output.items() if isinstance(value, torch.Tensor)}
    output.loss.backward()
    tensors["gradients"] = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return tensors


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    torch.save([answer(request) for request in torch.load(sys.argv[1], weights_only=True)], sys.argv[2])
