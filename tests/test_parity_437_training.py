"""Losses and gradients in training against transformers 4.37.2, in an environment of its own: `make parity`."""

import os
import subprocess
from pathlib import Path

import pytest
import torch
from weights import random_weights

import bigbird

PYTHON = os.environ.get("TRANSFORMERS_437_PYTHON")
pytestmark = pytest.mark.skipif(
    PYTHON is None, reason="TRANSFORMERS_437_PYTHON names no Python with transformers 4.37.2: run `make parity`"
)

LENGTHS = [100, 720, 1024]
FAMILY = {
    "BigBirdForPreTraining": {},
    "BigBirdForMaskedLM": {},
    "BigBirdForCausalLM": {"is_decoder": True, "attention_type": "original_full"},
    "BigBirdForSequenceClassification": {},
    "BigBirdForTokenClassification": {},
    "BigBirdForMultipleChoice": {},
    "BigBirdForQuestionAnswering": {},
}


def make_inputs(head: str, length: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(70, 150, (1, length), generator=torch.Generator().manual_seed(length))
    ids[:, 9] = 66
    labels = {
        "BigBirdForPreTraining": {"labels": ids, "next_sentence_label": torch.tensor([1])},
        "BigBirdForMaskedLM": {"labels": ids},
        "BigBirdForCausalLM": {"labels": ids},
        "BigBirdForSequenceClassification": {"labels": torch.tensor([1])},
        "BigBirdForTokenClassification": {"labels": ids % 2},
        "BigBirdForMultipleChoice": {"labels": torch.tensor([1])},
        "BigBirdForQuestionAnswering": {"start_positions": torch.tensor([12]), "end_positions": torch.tensor([14])},
    }
    return {
        "input_ids": torch.stack([ids, ids.flip(1)], dim=1) if head == "BigBirdForMultipleChoice" else ids,
        **labels[head],
    }


@pytest.mark.parametrize("head", FAMILY)
def test_every_head_trains_as_in_transformers_437(head, tmp_path):
    config = {
        "vocab_size": 150,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    model = getattr(bigbird, head)(bigbird.BigBirdConfig(**config, **FAMILY[head]))
    random_weights(model)
    model.save_pretrained(tmp_path / "model")
    requests = [
        {"head": head, "directory": str(tmp_path / "model"), "inputs": make_inputs(head, length)} for length in LENGTHS
    ]
    torch.save(requests, tmp_path / "request.pt")
    worker = Path(__file__).with_name("transformers_437.py")
    subprocess.run([PYTHON, worker, tmp_path / "request.pt", tmp_path / "answer.pt"], check=True)
    for request, theirs in zip(requests, torch.load(tmp_path / "answer.pt"), strict=True):
        model.train().zero_grad()
        ours = model(**request["inputs"])
        expected_gradients = theirs.pop("gradients")
        for name, expected in theirs.items():
            torch.testing.assert_close(ours[name].detach(), expected, atol=1e-4, rtol=1e-5)
        ours.loss.backward()
        scale = max(float(gradient.norm()) for gradient in expected_gradients.values())
        for name, parameter in model.named_parameters():
            expected = expected_gradients.get(name)
            if expected is None or expected.norm() < 1e-4 * scale:
                assert parameter.grad is None or parameter.grad.norm() < 1e-4 * scale, name
                continue
            assert (parameter.grad - expected).norm() < 1e-4 * expected.norm(), name
