"""What the comparisons with transformers share: small models with equal weights, inputs, losses, tolerances."""

import torch
import transformers
from torch import Tensor
from weights import random_weights

import bigbird

SMALL = {
    "vocab_size": 150,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "sep_token_id": 66,
}

LOSSES = [
    ("BigBirdForMaskedLM", {}, lambda ids: {"labels": ids.masked_fill(ids % 3 > 0, -100)}),
    ("BigBirdForPreTraining", {}, lambda ids: {"labels": ids, "next_sentence_label": torch.tensor([1])}),
    ("BigBirdForCausalLM", {"is_decoder": True, "attention_type": "original_full"}, lambda ids: {"labels": ids}),
    ("BigBirdForTokenClassification", {"num_labels": 3}, lambda ids: {"labels": ids % 3}),
    ("BigBirdForSequenceClassification", {"num_labels": 3}, lambda ids: {"labels": torch.tensor([2])}),
    ("BigBirdForSequenceClassification", {"num_labels": 1}, lambda ids: {"labels": torch.tensor([0.7])}),
    (
        "BigBirdForSequenceClassification",
        {"num_labels": 3, "problem_type": "multi_label_classification"},
        lambda ids: {"labels": torch.tensor([[1.0, 0.0, 1.0]])},
    ),
    (
        "BigBirdForQuestionAnswering",
        {},
        lambda ids: {"start_positions": torch.tensor([12]), "end_positions": torch.tensor([14])},
    ),
]


def pair(head: str, **config):
    """Our head and theirs with the same weights. Theirs is made anew each time: its attention type is sticky."""
    ours = getattr(bigbird, head)(bigbird.BigBirdConfig.from_dict({**SMALL, **config})).eval()
    random_weights(ours)
    theirs = getattr(transformers, head)(transformers.BigBirdConfig(**{**SMALL, **config})).eval()
    missing, unexpected = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert not unexpected
    assert all(name.endswith(("position_ids", "token_type_ids", "decoder.bias")) for name in missing), missing
    if hasattr(theirs, "cls"):
        theirs.cls.predictions.decoder.bias = theirs.cls.predictions.bias
    return ours, theirs


def tokens(length: int, rows: int = 1, seed: int = 0) -> Tensor:
    ids = torch.randint(70, 150, (rows, length), generator=torch.Generator().manual_seed(seed))
    ids[:, min(9, length - 1)] = 66  # a separator, for the head that looks for one
    return ids


def assert_same(ours, theirs, length: int, fields: tuple[str, ...]) -> None:
    for field in fields:
        a, b = getattr(ours, field), getattr(theirs, field)
        for x, y in zip(a, b, strict=True) if isinstance(a, tuple) else [(a, b)]:
            if y.dim() == 3:
                y = y[:, :length]  # theirs keeps the padding to a block in hidden_states
            torch.testing.assert_close(x, y, atol=1e-4, rtol=1e-5)


def assert_gradients_equal(model: torch.nn.Module, theirs: dict[str, Tensor]) -> None:
    """Within 1e-4 of each parameter's own gradient; a parameter not named in `theirs` has none."""
    scale = max(float(gradient.norm()) for gradient in theirs.values())
    for name, parameter in model.named_parameters():
        expected = theirs.get(name)
        if expected is None:
            assert parameter.grad is None or not parameter.grad.any(), name
        elif expected.norm() < 1e-4 * scale:  # zero but for rounding, as what softmax does not see: a key's bias
            assert parameter.grad.norm() < 1e-4 * scale, name
        else:
            error = (parameter.grad - expected).norm() / expected.norm()
            assert error < 1e-4, (name, float(error))
