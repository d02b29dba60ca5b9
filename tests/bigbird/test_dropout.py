"""Dropout from sixteen bits a number: the distribution and gradients of torch's, the same again for a seed."""

import copy

import pytest
import torch
from torch import nn

from bigbird.dropout import Dropout, Drops


def drawn(generator, shape=(400, 1000), probability=0.1):
    return Drops(probability, generator).draw(torch.empty(shape))


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.999])
def test_dropped_numbers_are_as_many_as_asked_independent_and_the_same_for_a_seed(probability):
    generator = torch.Generator().manual_seed(3)
    kept = drawn(generator, probability=probability)
    assert torch.equal(drawn(torch.Generator().manual_seed(3), probability=probability), kept)
    assert not torch.equal(drawn(generator, probability=probability), kept)
    keep = 1 - probability
    assert Drops(probability).keep == pytest.approx(keep, abs=1e-5)
    deviation = (keep * probability / 400_000) ** 0.5
    assert abs(kept.mean() - keep) < 5 * deviation
    near = kept - keep  # neighbours in memory know nothing of each other
    for step in (1, 2, 3, 4):
        assert abs((near[:, step:] * near[:, :-step]).mean()) < 5 * keep * probability / 630


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("probability", [0.0, 0.1, 0.7, 1.0, 1 - 1e-9])
@pytest.mark.parametrize("inplace", [False, True])
def test_states_are_zero_or_divided_by_what_is_kept_and_so_are_gradients(dtype, probability, inplace):
    torch.manual_seed(0)
    states = torch.linspace(1, 2, 40_001).to(dtype).requires_grad_()
    given = states.clone()
    found = Dropout(probability, inplace)(given)
    (gradient,) = torch.autograd.grad(found.sum(), states)
    scale = 0.0 if probability > 0.99 else 1 / (1 - probability)
    kept = found.detach() != 0
    close = {"rtol": 1e-2 if dtype == torch.bfloat16 else 1e-4, "atol": 0.0}
    torch.testing.assert_close(found.detach(), states.detach() * kept * scale, **close)
    torch.testing.assert_close(gradient, kept * torch.tensor(scale, dtype=dtype), **close)
    deviation = (probability * (1 - probability) / 40_001) ** 0.5
    assert abs(kept.double().mean() - (1 - probability)) <= 5 * deviation + 1e-8
    assert (found is given) or not inplace


def test_torchs_seed_decides_and_evaluation_drops_nothing():
    layer, states = Dropout(0.3), torch.ones(5, 1000)
    seeded = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        seeded.append(layer(states))
    assert torch.equal(seeded[0], seeded[1])
    assert not torch.equal(seeded[0], seeded[2])
    assert torch.equal(copy.deepcopy(layer).eval()(states), states)
    assert isinstance(layer, nn.Dropout)
    assert layer(torch.empty(0, 3)).shape == (0, 3)
