"""The linear layers of training against the same product in float64, and what they leave to torch."""

import copy

import pytest
import torch
from torch.nn import functional as F

from bigbird.linear import training as training_linear
from bigbird.linear.packed import can_pack
from bigbird.linear.training import Linear


@pytest.fixture(autouse=True)
def on_any_processor(monkeypatch):
    monkeypatch.setattr(training_linear, "_has_own_mkl", lambda: False)


needs_onednn = pytest.mark.skipif(not can_pack(torch.float32), reason="oneDNN's product does not run here")


def gradients(linear, states):
    """The result, and the gradients of states, weight and, where there is one, bias."""
    states = states.clone().requires_grad_()
    product = linear(states)
    weights = torch.linspace(-1, 2, product.numel(), dtype=product.dtype).view_as(product)
    return [product, *torch.autograd.grad((product * weights).sum(), [states, *linear.parameters()])]


@needs_onednn
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("shape", [(37, 24), (1, 24), (0, 24), (3, 5, 24)])
@pytest.mark.parametrize("out_features", [8, 24, 40])
def test_result_and_gradients_are_those_of_float64(has_bias, shape, out_features):
    torch.manual_seed(0)
    linear = Linear(24, out_features, bias=has_bias)
    states = torch.randn(shape)
    for found, exact in zip(
        gradients(linear, states), gradients(copy.deepcopy(linear).double(), states.double()), strict=True
    ):
        torch.testing.assert_close(found.double(), exact, atol=1e-4, rtol=1e-5)


@needs_onednn
def test_training_takes_its_products_from_onednn(monkeypatch):
    taken = []
    product = training_linear._product
    monkeypatch.setattr(training_linear, "_product", lambda *operands: taken.append(operands) or product(*operands))
    gradients(Linear(24, 8), torch.randn(5, 24))
    assert len(taken) == 3  # forwards, the states' gradient, the weight's


def test_only_float32_training_is_taken_from_torch(monkeypatch):
    linear = Linear(24, 8)
    states = torch.randn(5, 24)

    def refuse(*arguments):
        raise AssertionError("not float32 training")

    monkeypatch.setattr(training_linear, "_product", refuse)
    with torch.no_grad():
        linear(states)
    with torch.autocast("cpu", torch.bfloat16):
        linear(states)
    copy.deepcopy(linear).double()(states.double())
    copy.deepcopy(linear).requires_grad_(False)(states.requires_grad_())
    for name, answer in (("_has_own_mkl", True), ("can_pack", False)):
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(training_linear, name, lambda *_, answer=answer: answer)
            torch.testing.assert_close(linear(states), F.linear(states, linear.weight, linear.bias))


def test_a_compiled_layer_is_one_graph_and_the_same():
    linear = Linear(24, 8)
    states = torch.randn(5, 24)
    compiled = torch.compile(linear, fullgraph=True, backend="aot_eager")
    for found, exact in zip(gradients(compiled, states), gradients(linear, states), strict=True):
        torch.testing.assert_close(found, exact)


@needs_onednn
def test_a_second_derivative_is_refused_rather_than_wrong():
    linear = Linear(24, 8)
    states = torch.randn(5, 24, requires_grad=True)
    (first,) = torch.autograd.grad((linear(states) ** 2).sum(), states, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
