"""Checkpoints and logits against transformers 4.37, the version whose documentation is our interface.

It cannot be installed beside transformers 5, so it runs in an environment of its own: `make parity` makes one and names
its interpreter in TRANSFORMERS_437_PYTHON; without that these tests are skipped. One process of it loads what we saved,
computes, and saves it back.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from test_parity import FIELDS, SMALL, tokens
from weights import random_weights

import bigbird

PYTHON = os.environ.get("TRANSFORMERS_437_PYTHON")
pytestmark = pytest.mark.skipif(not PYTHON, reason="TRANSFORMERS_437_PYTHON is not set (make parity sets it)")

HEADS = ["BigBirdModel", "BigBirdForPreTraining", "BigBirdForMaskedLM", "BigBirdForSequenceClassification"]
HEADS += ["BigBirdForTokenClassification", "BigBirdForQuestionAnswering", "BigBirdForCausalLM"]
# Around a block, around the rule that switches to full attention, and inside the plans for longer ones.
LENGTHS = [1, 63, 64, 704, 705, 1024, 3072]


def lengths(head: str) -> list[int]:
    """Their sparse decoder is not causal; ours is, and differs from it on purpose where theirs turns sparse."""
    return [length for length in LENGTHS if head != "BigBirdForCausalLM" or length <= 704]


ORACLE = """
import json, sys, torch, transformers
assert transformers.__version__.startswith("4.37."), transformers.__version__
for work in json.load(open(sys.argv[1])):
    head = getattr(transformers, work["head"])
    results = []
    for length in work["lengths"]:
        model = head.from_pretrained(work["checkpoint"]).eval()  # anew: its attention type is sticky
        ids = torch.load(f"{work['inputs']}/{length}.pt")
        with torch.no_grad():
            output = model(ids)
        results.append({field: output[field] for field in work["fields"]})
    torch.save(results, work["results"])
    model.save_pretrained(work["saved_back"], safe_serialization=work["safe"])
"""


def fields(head: str) -> tuple[str, ...]:
    return FIELDS.get(head, ("logits",))


@pytest.fixture(scope="module")
def oracle(tmp_path_factory) -> Path:
    """A folder a head: our checkpoint, what 4.37 computed with it, and the checkpoint as 4.37 saved it."""
    root = tmp_path_factory.mktemp("oracle")
    for length in LENGTHS:
        torch.save(tokens(length), root / f"{length}.pt")
    works = []
    for number, head in enumerate(HEADS):
        folder = root / head
        config = SMALL | ({"is_decoder": True} if head == "BigBirdForCausalLM" else {})
        model = getattr(bigbird, head)(bigbird.BigBirdConfig.from_dict(config))
        random_weights(model)
        model.save_pretrained(folder / "ours")
        work = {
            "head": head,
            "lengths": lengths(head),
            "inputs": str(root),
            "fields": fields(head),
            "safe": number % 2 == 0,
        }
        paths = {"checkpoint": "ours", "results": "results.pt", "saved_back": "theirs"}
        works.append(work | {key: str(folder / name) for key, name in paths.items()})
    (root / "works.json").write_text(json.dumps(works))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    ran = subprocess.run(
        [str(PYTHON), "-c", ORACLE, str(root / "works.json")], env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return root


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("saved_by", ["ours", "theirs"])
def test_the_same_checkpoint_gives_the_same_logits_whoever_saved_it(oracle, head, saved_by):
    """`theirs` is safetensors for every other head and `pytorch_model.bin` for the rest."""
    model = getattr(bigbird, head).from_pretrained(oracle / head / saved_by).eval()
    expected = torch.load(oracle / head / "results.pt", weights_only=True)
    for length, theirs in zip(lengths(head), expected, strict=True):
        with torch.no_grad():
            ours = model(tokens(length))
        for field in fields(head):
            torch.testing.assert_close(
                getattr(ours, field), theirs[field], atol=1e-4, rtol=1e-5, msg=f"{length} {field}"
            )
