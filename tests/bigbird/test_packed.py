"""The products laid out for this CPU: the same numbers as `nn.Linear`, or found out and left alone."""

import copy
import pickle

import pytest
import torch
from torch import nn

from bigbird.linear import packed as packed_linear
from bigbird.linear.packed import GELU, Int8Linear, PackedLinear, can_pack, gelu_, prefers_bfloat16


def test_where_bfloat16_has_no_products_it_is_not_preferred(monkeypatch):
    prefers_bfloat16.cache_clear()
    assert prefers_bfloat16("cpu") in (True, False)
    prefers_bfloat16.cache_clear()
    monkeypatch.setattr(packed_linear, "can_pack", lambda dtype: False)
    assert not prefers_bfloat16("cpu")
    prefers_bfloat16.cache_clear()


@pytest.mark.parametrize("approximate", ["tanh", "none"])
def test_gelu_in_place_is_torchs(approximate):
    states = torch.cat([torch.linspace(-12, 12, 10_001), torch.tensor([-1e30, -1e3, 0.0, 1e3, 1e30])])
    expected = nn.functional.gelu(states, approximate=approximate)
    torch.testing.assert_close(gelu_(states.clone(), approximate), expected, atol=1e-6, rtol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("activation", [None, *GELU])
@pytest.mark.parametrize("num_rows", [1, 3, 200])
def test_a_packed_product_is_the_linear_layers(activation, num_rows):
    if not can_pack(torch.float32):
        pytest.skip("this machine has no packed float32 products")
    linear, states = nn.Linear(96, 80), torch.randn(num_rows, 96)
    expected = linear(states)
    if activation is not None:
        expected = nn.functional.gelu(expected, approximate=GELU[activation])
    found = PackedLinear(linear, num_rows=16, activation=activation)(states)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_an_8_bit_product_has_a_scale_for_every_row():
    if not can_pack(torch.int8):
        pytest.skip("this machine has no 8-bit products")
    linear = nn.Linear(96, 80)
    product = Int8Linear(linear)
    states = torch.randn(5, 96)
    expected = linear(states)
    assert (product(states) - expected).abs().max() < 0.05
    # A row a thousand times larger would take all levels of a scale that the rows share.
    beside = torch.cat([states, 1000 * states[:1]])
    assert torch.equal(product(beside)[:5], product(states))


def test_a_missing_product_is_found_out_once_and_not_used(monkeypatch):
    can_pack.cache_clear()
    monkeypatch.setattr(packed_linear, "PackedLinear", _Missing)
    monkeypatch.setattr(packed_linear, "Int8Linear", _Missing)
    assert not any(can_pack(dtype) for dtype in (torch.float32, torch.bfloat16, torch.int8))
    can_pack.cache_clear()


def test_a_product_that_computes_something_else_is_not_used(monkeypatch):
    can_pack.cache_clear()
    monkeypatch.setattr(packed_linear, "PackedLinear", lambda linear, **_: lambda rows: linear(rows) + 1)
    assert not can_pack(torch.float32)
    can_pack.cache_clear()


def test_trying_a_product_leaves_the_random_numbers_of_whoever_asks():
    before = torch.random.get_rng_state()
    for dtype in (torch.float32, torch.bfloat16, torch.int8):
        can_pack.cache_clear()
        can_pack(dtype)
    assert torch.equal(torch.random.get_rng_state(), before)


class _Missing:
    def __init__(self, *_: object, **__: object) -> None:
        raise RuntimeError("no such operator")


@torch.no_grad()
def test_a_plain_weight_beside_the_packed_one_changes_nothing_but_the_kernel(monkeypatch):
    linear = nn.Linear(64, 48)
    rows = torch.randn(5, 64, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(packed_linear, "plain_rows", lambda *shape: 2)
    both = PackedLinear(linear, num_rows=16, activation="gelu_new", decodes=True)
    expected = nn.functional.gelu(linear(rows), approximate="tanh")
    for module in (both, copy.deepcopy(both), pickle.loads(pickle.dumps(both))):
        assert module._plain is not None
        for num_rows in (1, 2, 5):
            torch.testing.assert_close(module(rows[:num_rows]), expected[:num_rows], atol=1e-5, rtol=1e-5)
    assert set(both.state_dict()) == {"weight", "bias"}
    both.load_state_dict({name: tensor * 2 for name, tensor in both.state_dict().items()})
    torch.testing.assert_close(both(rows[:1]), both(rows)[:1], atol=1e-5, rtol=1e-5)


def test_a_weight_that_a_cache_keeps_is_not_probed():
    assert packed_linear.plain_rows(torch.float32, 64, 64) == 0
