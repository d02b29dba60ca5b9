"""Our heads against transformers 4.37, the version whose documentation is our interface.

It cannot be installed beside transformers 5, so it runs in an environment of its own: `make parity` makes one and names
its interpreter in TRANSFORMERS_437_PYTHON; without that these tests are skipped. One process of it answers all that is
asked here. Checkpoints that travel both ways are test_checkpoint.py's.
"""

import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from parity import LOSSES, SMALL, assert_gradients_equal, tokens
from torch import Tensor
from weights import random_weights

import bigbird

PYTHON = os.environ.get("TRANSFORMERS_437_PYTHON")
pytestmark = pytest.mark.skipif(not PYTHON, reason="TRANSFORMERS_437_PYTHON is not set (make parity sets it)")

# Around a block, around the rule that switches to full attention, and inside the plans for longer ones.
LENGTHS = [1, 63, 64, 704, 705, 1024, 3072]
HEADS = ["BigBirdModel", "BigBirdForPreTraining", "BigBirdForMaskedLM", "BigBirdForSequenceClassification"]
HEADS += ["BigBirdForTokenClassification", "BigBirdForQuestionAnswering"]
FULL = {"attention_type": "original_full"}
DECODER = {"is_decoder": True, **FULL}  # their sparse decoder is not causal


@dataclass(frozen=True, eq=False)
class Case:
    head: str
    inputs: dict[str, Any]
    config: dict[str, Any] = field(default_factory=dict)
    train: bool = False

    def model(self) -> Any:
        model = getattr(bigbird, self.head)(bigbird.BigBirdConfig.from_dict(SMALL | self.config))
        random_weights(model)
        return model.train(self.train)


def cases() -> dict[str, Case]:
    """By name: what both sides are asked."""
    generator = torch.Generator().manual_seed(3)
    every = {
        f"{head}, {length} tokens": Case(head, {"input_ids": tokens(length), "output_hidden_states": True})
        for head in HEADS
        for length in LENGTHS
    }
    for length in (50, 800):
        mask = (torch.rand(1, length, generator=generator) > 0.2).long()
        mask[0, [0, -1]] = 1
        every[f"embeddings, types, positions and holes, {length} tokens"] = Case(
            "BigBirdModel",
            {
                "inputs_embeds": torch.randn(1, length, 32, generator=generator),
                "token_type_ids": torch.randint(0, 2, (1, length), generator=generator),
                "position_ids": torch.randint(0, 4096, (1, length), generator=generator),
                "attention_mask": mask,
            },
        )
    for name, head_mask in {
        "by head": torch.tensor([0.5, 0.0]),
        "by layer": torch.tensor([[1, 0.2], [0, 1.0]]),
    }.items():
        inputs = {"input_ids": tokens(70), "head_mask": head_mask}
        every[f"head mask {name}"] = Case("BigBirdForTokenClassification", inputs, FULL)
    for name, config in {"encoder": FULL, "decoder": DECODER}.items():
        inputs = {"input_ids": tokens(33, 2), "output_attentions": True}
        every[f"attention probabilities, {name}"] = Case("BigBirdModel", inputs, config)
    every["question lengths"] = Case(
        "BigBirdForQuestionAnswering", {"input_ids": tokens(90, 2), "question_lengths": torch.tensor([[5], [30]])}
    )
    every["choices"] = Case("BigBirdForMultipleChoice", {"input_ids": tokens(40, 3)[None]})
    first = Case("BigBirdForCausalLM", {"input_ids": tokens(20, 2), "use_cache": True}, DECODER)
    every["cache"] = first
    with torch.no_grad():
        past = first.model()(**first.inputs).past_key_values
    more = {"input_ids": tokens(5, 2, seed=1), "past_key_values": past, "use_cache": True}
    every["cache of ours"] = Case("BigBirdForCausalLM", more, DECODER)
    for number, (head, config, make_labels) in enumerate(LOSSES):
        for length in (100, 720, 1024):
            inputs = {"input_ids": tokens(length), **make_labels(tokens(length))}
            every[f"training {number} {head}, {length} tokens"] = Case(head, inputs, config, train=True)
    choices = {"input_ids": torch.stack([tokens(720, 2), tokens(720, 2, seed=1)]), "labels": torch.tensor([1, 0])}
    every["training BigBirdForMultipleChoice"] = Case("BigBirdForMultipleChoice", choices, train=True)
    return every


CASES = cases()


@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> dict[str, dict[str, Any]]:
    """What 4.37 makes of every case."""
    root = tmp_path_factory.mktemp("oracle")
    requests = []
    for number, case in enumerate(CASES.values()):
        case.model().save_pretrained(root / str(number))
        requests.append(
            {"head": case.head, "directory": str(root / str(number)), "inputs": case.inputs, "train": case.train}
        )
    torch.save(requests, root / "requests.pt")
    worker = Path(__file__).parents[1] / "support" / "transformers_437.py"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    ran = subprocess.run(
        [str(PYTHON), worker, root / "requests.pt", root / "answers.pt"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return dict(zip(CASES, torch.load(root / "answers.pt", weights_only=True), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_a_case_gives_what_transformers_437_gives(answers, name):
    case, theirs = CASES[name], answers[name]
    gradients = theirs.pop("gradients", {})
    model = case.model()
    with torch.set_grad_enabled(case.train):
        ours = model(**case.inputs)
    assert set(ours.keys()) == set(theirs)
    for field_name, expected in theirs.items():
        mask = case.inputs.get("attention_mask") if field_name == "last_hidden_state" else None
        assert_close(ours[field_name], expected if mask is None else expected * mask[..., None], field_name)
    if case.train:
        ours.loss.backward()
        assert_gradients_equal(model, gradients)


def assert_close(ours: Any, theirs: Any, name: str) -> None:
    if isinstance(theirs, Tensor):
        if name == "hidden_states":
            theirs = theirs[:, : ours.shape[1]]  # theirs keeps the padding to a block
        tolerance = {"atol": 1e-6, "rtol": 1e-5} if name == "loss" else {"atol": 1e-4, "rtol": 1e-5}
        torch.testing.assert_close(ours.detach(), theirs, **tolerance, msg=lambda message: f"{name}: {message}")
        return
    for one, other in zip(ours, theirs, strict=True):
        assert_close(one, other, name)
