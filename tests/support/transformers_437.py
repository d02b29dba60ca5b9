"""Run by the Python of an environment with transformers 4.37.2, not by pytest: checkpoints in, results out.

    python transformers_437.py REQUESTS ANSWERS

REQUESTS: torch-saved list of {"head", "directory", "inputs", "train"}. ANSWERS: for each, its named outputs and, where
it trains, "gradients" by parameter name. Each request gets a fresh model: theirs remembers earlier inputs.
"""

import sys

import torch
import transformers


def answer(request: dict) -> dict:
    model = getattr(transformers, request["head"]).from_pretrained(request["directory"])
    model.train(request["train"])
    with torch.set_grad_enabled(request["train"]):
        output = model(**request["inputs"])
    results = {name: detached(value) for name, value in output.items()}
    if request["train"]:
        output.loss.backward()
        results["gradients"] = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return results


def detached(value):
    return value.detach() if isinstance(value, torch.Tensor) else tuple(map(detached, value))


if __name__ == "__main__":
    assert transformers.__version__ == "4.37.2", transformers.__version__
    transformers.logging.set_verbosity_error()
    torch.save([answer(request) for request in torch.load(sys.argv[1], weights_only=True)], sys.argv[2])
