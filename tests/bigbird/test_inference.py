"""A prepared model: the same results, whatever products this machine offers; the loaded model stays as it is."""

import logging
import weakref

import pytest
import torch
from torch import nn
from weights import random_weights

import bigbird.heads as heads
from bigbird import BigBirdConfig, BigBirdForCausalLM, BigBirdForMaskedLM, BigBirdModel, inference
from bigbird import prepare_for_inference as prepare
from bigbird.errors import ConfigError
from bigbird.inference import FusedLayer
from bigbird.linear import packed as packed_linear
from bigbird.linear.packed import GELU, Int8Linear, PackedLinear, can_pack, gelu_
from bigbird.packing import pack
from bigbird.predictors.batches import (
    FAST_MAX_TOKENS,
    MAX_ACTIVATION_BYTES,
    activation_bytes,
    default_max_tokens_per_batch,
)

LENGTHS = (300, 17, 113, 401, 112, 1)
HEADS = ["MaskedLM", "SequenceClassification", "MultipleChoice", "TokenClassification", "QuestionAnswering"]
HEADS += ["PreTraining", "CausalLM"]


def made(head_class: type, config: BigBirdConfig, **changes: object):
    model = head_class(config.replace(**changes)).eval()
    random_weights(model)
    return model


def rows(lengths: tuple[int, ...] = LENGTHS):
    draw = torch.Generator().manual_seed(0)
    return pack([torch.randint(7, 512, (length,), generator=draw).tolist() for length in lengths])


@pytest.fixture(params=["all tokens at once", "piece by piece"])
def pieces(request, monkeypatch):
    monkeypatch.setattr(inference, "TOKENS_A_THREAD", 10**6 if request.param == "all tokens at once" else 16)


@pytest.fixture(params=["packed", "packed, gelu fused", "nothing to pack"])
def products(request, monkeypatch):
    """The machines there are: oneDNN's products with a slow or a fast gelu, or none of them."""
    if request.param == "nothing to pack":
        monkeypatch.setattr(inference, "can_pack", lambda dtype: False)
    elif not can_pack(torch.float32):
        pytest.skip("this machine has no packed float32 products")
    monkeypatch.setattr(packed_linear, "fuses_gelu", lambda: "fused" in request.param)
    return request.param


@torch.no_grad()
@pytest.mark.parametrize("hidden_act", ["gelu_new", "gelu", "relu"])
def test_a_prepared_encoder_gives_what_the_loaded_one_gives(tiny_config, products, pieces, hidden_act):
    model = made(BigBirdModel, tiny_config, hidden_act=hidden_act)
    fast = prepare(model)
    packs = any(isinstance(module, PackedLinear) for module in fast.modules())
    assert packs == (products != "nothing to pack")
    torch.testing.assert_close(fast.encode(rows()), model.encode(rows()), atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("head", HEADS)
def test_every_head_keeps_its_call_and_its_results(tiny_config, products, head):
    model = made(getattr(heads, f"BigBirdFor{head}"), tiny_config, is_decoder=head == "CausalLM")
    shape = (2, 3, 130) if head == "MultipleChoice" else (2, 130)
    ids = torch.randint(7, 512, shape, generator=torch.Generator().manual_seed(1))
    mask = torch.ones(shape, dtype=torch.long)
    mask[0, ..., 40:] = 0
    expected, found = model(ids, attention_mask=mask), prepare(model)(ids, attention_mask=mask)
    assert type(found) is type(expected)
    torch.testing.assert_close(found[0], expected[0], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_prepared_decoder_with_cross_attention_gives_what_the_loaded_one_gives(tiny_config, pieces):
    model = made(BigBirdForCausalLM, tiny_config, is_decoder=True, add_cross_attention=True)
    ids = torch.randint(7, 512, (2, 60), generator=torch.Generator().manual_seed(2))
    states = torch.randn(2, 30, 32, generator=torch.Generator().manual_seed(3))
    expected, found = (m(ids, encoder_hidden_states=states).logits for m in (model, prepare(model)))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_a_row_gives_alone_what_it_gives_in_a_batch(tiny_config, pieces, dtype):
    if dtype == "int8" and not can_pack(torch.int8):
        pytest.skip("this machine has no 8-bit products")
    fast = prepare(made(BigBirdModel, tiny_config), dtype)
    together = fast.encode(rows()).split(LENGTHS)
    ids = rows().input_ids.split(LENGTHS)
    close = {"float32": 1e-5, "bfloat16": 5e-2, "int8": 5e-2}[dtype]
    for row, states in zip(ids, together, strict=True):
        torch.testing.assert_close(fast.encode(pack([row.tolist()])), states, atol=close, rtol=close)


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "close"), [("bfloat16", 0.15), ("int8", 0.15)])
def test_lower_precision_stays_near_float32(tiny_config, dtype, close):
    if dtype == "int8" and not can_pack(torch.int8):
        pytest.skip("this machine has no 8-bit products")
    model = made(BigBirdForMaskedLM, tiny_config)
    ids = torch.randint(7, 512, (1, 200), generator=torch.Generator().manual_seed(4))
    expected = model(ids).logits
    error = (prepare(model, dtype)(ids).logits.float() - expected).square().mean().sqrt()
    assert 0 < error < close * expected.std()


@torch.no_grad()
def test_the_loaded_model_is_unchanged_and_its_replaced_weights_go_with_it(tiny_config):
    model = made(BigBirdForMaskedLM, tiny_config)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    fast = prepare(model)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in fast.parameters())
    replaced = [weakref.ref(layer) for layer in model.bert.encoder.layer]
    word_embeddings = model.bert.embeddings.word_embeddings.weight
    assert fast.bert.embeddings.word_embeddings.weight.data_ptr() == word_embeddings.data_ptr()
    del model
    assert [reference() for reference in replaced] == [None] * len(replaced)


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


def test_what_cannot_be_prepared_is_refused_by_name(tiny_config, monkeypatch):
    model = made(BigBirdModel, tiny_config)
    with pytest.raises(ConfigError, match="'float16'"):
        prepare(model, "float16")
    with pytest.raises(ConfigError, match="prepared for inference already"):
        prepare(prepare(model))
    if can_pack(torch.float32):
        with pytest.raises(ConfigError, match="resize the loaded one"):
            prepare(made(BigBirdForMaskedLM, tiny_config)).resize_token_embeddings(600)
    monkeypatch.setattr(inference, "can_pack", lambda dtype: False)
    with pytest.raises(ConfigError, match="8-bit products"):
        prepare(model, "int8")


def test_bfloat16_without_the_cpus_help_is_said(tiny_config, monkeypatch, caplog):
    monkeypatch.setattr(inference, "can_pack", lambda dtype: dtype != torch.bfloat16)
    with caplog.at_level(logging.WARNING):
        fast = prepare(made(BigBirdModel, tiny_config), "bfloat16")
    assert "no bfloat16 matrix products" in caplog.text
    assert all(isinstance(layer, FusedLayer) for layer in fast.encoder.layer)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_token_budget_follows_from_the_memory_a_token_takes(dtype):
    large = BigBirdConfig(hidden_size=8192, num_attention_heads=64, intermediate_size=32768)
    assert activation_bytes(large, "cpu", dtype) * 1000 < MAX_ACTIVATION_BYTES["cpu"]
    model = nn.Linear(1, 1, dtype=dtype)
    model.config = large
    budget = default_max_tokens_per_batch(model)
    used = budget * activation_bytes(large, "cpu", dtype)
    assert used <= MAX_ACTIVATION_BYTES["cpu"] < used + activation_bytes(large, "cpu", dtype)
    model.config = BigBirdConfig()
    assert default_max_tokens_per_batch(model) == FAST_MAX_TOKENS["cpu"]
