"""A prepared model: the same results, whatever products this machine offers; the loaded model stays as it is."""

import copy
import io
import logging
import pickle
import weakref

import pytest
import torch
from torch import nn
from weights import random_weights

import bigbird.heads as heads
from bigbird import BigBirdConfig, BigBirdForCausalLM, BigBirdForMaskedLM, BigBirdModel, inference
from bigbird import prepare_for_inference as prepare
from bigbird.errors import BigBirdError, ConfigError
from bigbird.inference import FusedLayer
from bigbird.linear import packed as packed_linear
from bigbird.linear.packed import PackedLinear, can_pack
from bigbird.packing import pack
from bigbird.predictors.batches import (
    FAST_MAX_TOKENS,
    MAX_CPU_BYTES,
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


@pytest.mark.parametrize("head", HEADS)
def test_the_loaded_model_stays_as_it_is_and_trainable_and_shares_nothing(tiny_config, head):
    model = made(getattr(heads, f"BigBirdFor{head}"), tiny_config, is_decoder=head == "CausalLM").train()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    fast = prepare(model)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert not fast.training
    assert not any(parameter.requires_grad for parameter in fast.parameters())
    ids = torch.randint(7, 512, (2, 3, 20) if head == "MultipleChoice" else (2, 20))
    expected = fast(ids)[0]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert torch.equal(fast(ids)[0], expected)
    replaced = weakref.ref(model.bert.encoder.layer[0])
    del model
    assert replaced() is None


@torch.no_grad()
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_a_prepared_model_is_copied_pickled_saved_and_loaded_as_any_module(tiny_config, dtype):
    if dtype == "int8" and not can_pack(torch.int8):
        pytest.skip("this machine has no 8-bit products")
    config = tiny_config.replace(is_decoder=True, add_cross_attention=True)
    fast = prepare(made(BigBirdForCausalLM, config), dtype)
    ids, states = torch.randint(7, 512, (1, 30)), torch.randn(1, 9, 32)
    expected = fast(ids, encoder_hidden_states=states).logits
    file = io.BytesIO()
    torch.save(fast, file)
    file.seek(0)
    copies = [copy.deepcopy(fast), pickle.loads(pickle.dumps(fast)), torch.load(file, weights_only=False)]
    torch.manual_seed(1)
    other = prepare(BigBirdForCausalLM(config), dtype)
    assert not torch.equal(other(ids, encoder_hidden_states=states).logits, expected)
    weights = fast.state_dict()
    assert all(tensor.layout == torch.strided for tensor in weights.values())
    other.load_state_dict(weights)
    copies += [other, fast.to(fast.dtype).to("cpu").cpu()]
    for same in copies:
        assert torch.equal(same(ids, encoder_hidden_states=states).logits, expected)
    del weights["bert.encoder.layer.1.output.weight"]
    with pytest.raises(RuntimeError, match=r"layer\.1\.output\.weight"):
        other.load_state_dict(weights)


@pytest.mark.parametrize("use", ["train", "double", "half", "meta", "save", "trainable", "embeddings"])
def test_what_a_prepared_model_cannot_do_is_refused_in_one_sentence_and_changes_nothing(tiny_config, tmp_path, use):
    fast = prepare(made(BigBirdForMaskedLM, tiny_config))
    ids = torch.randint(7, 512, (1, 130))
    expected = fast(ids).logits
    calls = {
        "train": (fast.train, "does not train; train the loaded one"),
        "double": (fast.double, "stays float32 on cpu; convert or move the loaded one"),
        "half": (lambda: fast.to(torch.float16), "stays float32 on cpu"),
        "meta": (lambda: nn.Sequential(fast).to("meta"), "stays float32 on cpu"),
        "save": (lambda: fast.save_pretrained(tmp_path), "prepared for inference"),
        "trainable": (lambda: fast.requires_grad_()(ids), "has no gradients; differentiate the loaded one"),
        "embeddings": (
            lambda: fast(inputs_embeds=torch.zeros(1, 9, 32, requires_grad=True)),
            "has no gradients; differentiate the loaded one",
        ),
    }
    call, message = calls[use]
    with pytest.raises(BigBirdError, match=message):
        call()
    assert not any(module.training for module in fast.modules())
    assert torch.equal(fast.requires_grad_(False)(ids).logits, expected)


@torch.no_grad()
def test_the_dtype_is_the_models_own_unless_asked_for(tiny_config, monkeypatch):
    model = made(BigBirdModel, tiny_config)
    assert prepare(model).dtype == prepare(model, torch.float32).dtype == torch.float32
    assert prepare(model.to(torch.bfloat16)).dtype == torch.bfloat16
    assert prepare(model, "float32").dtype == torch.float32
    for faster, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(inference, "prefers_bfloat16", lambda device_type, faster=faster: faster)
        assert prepare(model, "auto").dtype == expected
    with pytest.raises(ConfigError, match="'float64', which is the model's own"):
        prepare(model.double())


def test_what_cannot_be_prepared_is_refused_by_name(tiny_config, monkeypatch):
    model = made(BigBirdModel, tiny_config)
    with pytest.raises(ConfigError, match="'float8'"):
        prepare(model, "float8")
    with pytest.raises(ConfigError, match="float16 is for GPUs"):
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
    assert activation_bytes(large, "cpu", dtype) * 1000 < MAX_CPU_BYTES
    model = nn.Linear(1, 1, dtype=dtype)
    model.config = large
    budget = default_max_tokens_per_batch(model)
    used = budget * activation_bytes(large, "cpu", dtype)
    assert used <= MAX_CPU_BYTES < used + activation_bytes(large, "cpu", dtype)
    model.config = BigBirdConfig()
    assert default_max_tokens_per_batch(model) == FAST_MAX_TOKENS["cpu"]
