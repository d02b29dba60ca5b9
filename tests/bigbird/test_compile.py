"""torch.compile and torch.export take the model as it is."""

import pytest
import torch
from weights import random_weights

from bigbird import BigBirdConfig, BigBirdForTokenClassification


# torch's own tracing touches deprecated corners of Python.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_compiled_and_exported_models_give_the_same_logits(tiny_config: BigBirdConfig):
    model = BigBirdForTokenClassification(tiny_config.replace(num_hidden_layers=1)).eval()
    random_weights(model)
    ids = torch.randint(7, 512, (1, 200))

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            return self.model(input_ids, return_dict=False)[0]

    with torch.no_grad():
        expected = model(ids).logits
        compiled = torch.compile(model, backend="eager")
        torch.testing.assert_close(compiled(ids).logits, expected)
        exported = torch.export.export(Encoder(), (ids,))
        torch.testing.assert_close(exported.module()(ids), expected)
    compiled(ids, labels=ids % 2).loss.backward()
    assert model.classifier.weight.grad is not None
