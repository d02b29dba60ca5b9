"""torch.compile and torch.export take the model as it is: the encoder stays uncompiled, whatever its rows' lengths."""

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


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_neither_layers_nor_lengths_nor_masks_compile_anything_anew(tiny_config: BigBirdConfig):
    from torch._dynamo.utils import counters

    graphs = []
    for num_layers in (1, 3):
        model = BigBirdForTokenClassification(tiny_config.replace(num_hidden_layers=num_layers)).eval()
        torch._dynamo.reset()
        counters.clear()
        compiled = torch.compile(model, backend="eager")
        for length in (200, 40, 300, 100):
            mask = torch.ones(2, length, dtype=torch.long)
            mask[0, length // 2 :] = 0
            ids = torch.randint(7, 512, (2, length))
            with torch.no_grad():
                assert torch.equal(compiled(ids, mask).logits, model(ids, mask).logits)
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] == graphs[1] <= 2  # the head, for one length and for any
