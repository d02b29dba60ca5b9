"""Loading and saving checkpoints: both ways with transformers, other heads, and one message for all that is wrong."""

import json
import logging
import os
import subprocess

import pytest
import torch
from random_checkpoints import answer, made, rewrite
from weights import random_weights

import bigbird
from bigbird import BigBirdForMaskedLM, BigBirdForSequenceClassification, BigBirdForTokenClassification, BigBirdModel
from bigbird.checkpoint import CLASSES, load_model
from bigbird.config import BigBirdConfig
from bigbird.errors import CheckpointError, ConfigError
from bigbird.inference import prepare_for_inference
from bigbird.loading.pretrained import load_weights, save_pretrained
from bigbird.tokenization.tokenizer import BigBirdTokenizer

HEADS = [name for name in CLASSES if name != "BigBirdModel"]


@pytest.mark.parametrize("name", CLASSES)
def test_saved_and_loaded_again_is_the_same(tiny_config, tmp_path, name):
    model = made(tiny_config, name)
    model.save_pretrained(tmp_path)
    again = load_model(tmp_path)
    assert type(again) is CLASSES[name]
    assert again.config == model.config.replace(architectures=(name,))
    assert not again.training
    assert again.state_dict().keys() == model.state_dict().keys()
    for key, tensor in again.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[key]), key


@pytest.mark.parametrize("name", CLASSES)
def test_transformers_loads_what_is_saved_here(tiny_config, tmp_path, name):
    transformers = pytest.importorskip("transformers", reason="needs the extra named parity")
    model = made(tiny_config, name)
    model.save_pretrained(tmp_path)
    theirs, info = getattr(transformers, name).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    torch.testing.assert_close(answer(model), answer(theirs.eval()), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", CLASSES)
def test_what_transformers_saves_is_loaded_here(tiny_config, tmp_path, name, caplog):
    transformers = pytest.importorskip("transformers", reason="needs the extra named parity")
    config = transformers.BigBirdConfig(
        **made(tiny_config, name).config.to_dict() | {"num_labels": 4, "id2label": None, "label2id": None}
    )
    theirs = getattr(transformers, name)(config).eval()
    random_weights(theirs)
    theirs.save_pretrained(tmp_path)
    model = load_model(tmp_path)
    assert type(model) is CLASSES[name]
    assert model.config.num_labels == (2 if name == "BigBirdForQuestionAnswering" else 4)
    assert not caplog.records
    torch.testing.assert_close(answer(model), answer(theirs), atol=1e-5, rtol=1e-5)


ORACLE = """
import json, sys, pathlib, torch, transformers
torch.manual_seed(0)
ours, theirs = map(pathlib.Path, sys.argv[1:])
def answer(model, name):
    ids = torch.arange(7, 47).view(1, 40)
    with torch.no_grad():
        return model.eval()(ids.view(1, 2, 20) if name.endswith("MultipleChoice") else ids, return_dict=False)[0]
for directory in sorted(ours.iterdir()):
    name = directory.name
    cls = getattr(transformers, name)
    model, info = cls.from_pretrained(directory, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], (name, info)
    torch.save(answer(model, name), directory / "answer.pt")
    for safe in (True, False):
        model = cls(model.config)
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter) * 0.2)
        place = theirs / f"{name}-{'safetensors' if safe else 'bin'}"
        model.save_pretrained(place, safe_serialization=safe, max_shard_size="40KB" if safe else "10GB")
        torch.save(answer(model, name), place / "answer.pt")
"""


def test_both_ways_with_transformers_4(tiny_config, tmp_path, caplog):
    oracle = os.environ.get("TRANSFORMERS_437_PYTHON")
    if not oracle:
        pytest.skip("TRANSFORMERS_437_PYTHON names no python with transformers 4.37.2 (`make parity` sets it)")
    for name in CLASSES:
        made(tiny_config, name).save_pretrained(tmp_path / "ours" / name)
    process = subprocess.run(
        [oracle, "-c", ORACLE, str(tmp_path / "ours"), str(tmp_path / "theirs")],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    places = [*(tmp_path / "ours").iterdir(), *(tmp_path / "theirs").iterdir()]
    assert len(places) == 3 * len(CLASSES)
    for place in places:
        expected = torch.load(place / "answer.pt", weights_only=True)
        torch.testing.assert_close(answer(load_model(place)), expected, atol=1e-5, rtol=1e-5)
    assert not caplog.records


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_an_encoder_loads_into_a_head_that_is_drawn_anew_and_named(tiny_config, tmp_path, caplog, prefix):
    model = made(tiny_config, "BigBirdModel")
    model.save_pretrained(tmp_path)
    rewrite(tmp_path, lambda tensors: {prefix + key: tensor for key, tensor in tensors.items()})
    head = BigBirdForTokenClassification.from_pretrained(tmp_path, num_labels=3)
    assert head.config.num_labels == 3
    assert head.classifier.weight.shape == (3, 32)
    assert 0 < head.classifier.weight.std() < 0.1
    assert torch.equal(head.classifier.bias, torch.zeros(3))
    assert torch.equal(answer(head.bert), answer(model))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "classifier.bias, classifier.weight: drawn anew" in record.getMessage()


def test_a_checkpoint_of_another_head_loads_with_both_heads_named(saved, caplog):
    directory, model = saved
    head = BigBirdForSequenceClassification.from_pretrained(directory, num_labels=5)
    assert torch.equal(answer(head.bert), answer(model.bert))
    drawn, left_out = (record.getMessage() for record in caplog.records)
    for key in ("classifier.dense.weight", "classifier.out_proj.bias"):
        assert key in drawn
    assert "cls.predictions.transform.dense.weight" in left_out


def test_a_head_loads_into_the_bare_model(saved, caplog):
    directory, model = saved
    bare = BigBirdModel.from_pretrained(directory)
    assert torch.equal(answer(bare), answer(model.bert))
    (record,) = caplog.records
    assert "cls.predictions.bias" in record.getMessage()
    assert "left out" in record.getMessage()


def test_an_unexpected_pooler_is_left_out_and_a_missing_one_drawn(tiny_config, tmp_path, caplog):
    model = made(tiny_config, "BigBirdForQuestionAnswering")
    model.save_pretrained(tmp_path)
    rewrite(tmp_path, lambda t: t | {"bert.pooler.weight": torch.zeros(32, 32), "bert.pooler.bias": torch.zeros(32)})
    assert torch.equal(answer(load_model(tmp_path)), answer(model))
    assert "bert.pooler.bias, bert.pooler.weight: left out" in caplog.text
    made(tiny_config, "BigBirdForMultipleChoice").save_pretrained(tmp_path)
    rewrite(tmp_path, lambda tensors: {k: v for k, v in tensors.items() if "pooler" not in k})
    with pytest.raises(CheckpointError, match=r"missing \(2\): bert\.pooler\.bias, bert\.pooler\.weight"):
        load_model(tmp_path)
    bare = BigBirdModel.from_pretrained(tmp_path)
    assert "no pooler.bias, pooler.weight: drawn anew" in caplog.text
    assert bare.pooler.weight.std() > 0


def test_a_head_the_checkpoint_promises_must_be_there(saved):
    directory, _ = saved
    rewrite(directory, lambda tensors: {k: v for k, v in tensors.items() if not k.startswith("cls")})
    for load in (load_model, BigBirdForMaskedLM.from_pretrained):
        with pytest.raises(CheckpointError, match=r"missing \(\d+\): cls\.predictions\.bias"):
            load(directory)


def test_everything_that_does_not_fit_is_listed_in_one_message(saved):
    directory, _ = saved

    def spoil(tensors):
        del tensors["bert.encoder.layer.0.output.dense.weight"], tensors["cls.predictions.bias"]
        tensors["bert.encoder.layer.2.output.dense.bias"] = torch.zeros(32)
        tensors["classify.weight"] = torch.zeros(2, 32)
        tensors["bert.encoder.layer.1.output.dense.weight"] = torch.zeros(32, 32)
        tensors["bert.embeddings.LayerNorm.bias"] = torch.zeros(32, dtype=torch.int64)
        tensors["bert.pooler.bias"][3] = float("nan")
        return tensors

    rewrite(directory, spoil)
    with pytest.raises(CheckpointError) as error:
        load_model(directory, check_finite=True)
    message = str(error.value)
    for part in (
        "does not fit BigBirdForMaskedLM",
        "missing (2): bert.encoder.layer.0.output.dense.weight, cls.predictions.bias",
        "unexpected (2): bert.encoder.layer.2.output.dense.bias, classify.weight",
        "wrong shape (1): bert.encoder.layer.1.output.dense.weight is (32, 32), expected (32, 64)",
        "not floating point (1): bert.embeddings.LayerNorm.bias (torch.int64)",
        "not finite (1): bert.pooler.bias",
    ):
        assert part in message


@pytest.mark.parametrize("dtype", ["bfloat16", torch.float16, None])
def test_the_data_type_is_the_one_asked_for_whatever_is_stored(saved, dtype):
    directory, model = saved
    save_pretrained(model.half(), directory)
    assert json.loads((directory / "config.json").read_text())["torch_dtype"] == "float16"
    loaded = load_model(directory, dtype=dtype, device="cpu")
    wanted = {"bfloat16": torch.bfloat16, None: torch.float32}.get(dtype, dtype)
    assert {parameter.dtype for parameter in loaded.parameters()} == {wanted}
    with pytest.raises(ConfigError, match="dtype must be a floating-point type"):
        load_model(directory, dtype="int8")


def test_configuration_overrides_are_applied_and_checked(saved):
    directory, _ = saved
    model = load_model(directory, random_attention="seeded", attention_type="original_full")
    assert (model.config.random_attention, model.config.attention_type) == ("seeded", "original_full")
    with pytest.raises(TypeError, match=r"load_model.* unexpected keyword argument 'block_sizes'; .* 'block_size'"):
        load_model(directory, block_sizes=1)
    with pytest.raises(CheckpointError, match=r"wrong shape .* expected \(600, 32\)"):
        load_model(directory, vocab_size=600)


def test_load_weights_fills_a_model_in_place_or_leaves_it(saved, tiny_config):
    directory, model = saved
    other = made(tiny_config, "BigBirdForMaskedLM").train()
    random_weights(other, seed=1)
    load_weights(other, directory)
    assert other.training
    assert torch.equal(answer(other.eval()), answer(model))
    before = made(tiny_config, "BigBirdForTokenClassification")
    kept = {key: tensor.clone() for key, tensor in before.state_dict().items()}
    with pytest.raises(CheckpointError, match="missing"):
        load_weights(before, directory)
    assert all(torch.equal(tensor, kept[key]) for key, tensor in before.state_dict().items())


def test_a_resized_vocabulary_is_saved_with_its_configuration(saved):
    directory, model = saved
    model.resize_token_embeddings(530)
    model.save_pretrained(directory)
    again = load_model(directory)
    assert again.config.vocab_size == 530
    assert answer(again).shape == (1, 40, 530)


def test_a_tokenizer_is_saved_beside_the_model(saved, tiny_tokenizer_dir):
    directory, model = saved
    tokenizer = BigBirdTokenizer.from_pretrained(tiny_tokenizer_dir)
    save_pretrained(model, directory, tokenizer)
    assert BigBirdTokenizer.from_pretrained(directory).encode("a text") == tokenizer.encode("a text")


def test_a_model_prepared_for_inference_is_not_saved(saved, tmp_path):
    _, model = saved
    with pytest.raises(CheckpointError, match="prepared for inference"):
        prepare_for_inference(model).save_pretrained(tmp_path / "fast")
    assert not (tmp_path / "fast").exists()


@pytest.mark.parametrize("named", [[], ["BertForMaskedLM"], ["BigBirdModel", "BigBirdForMaskedLM"]])
def test_the_class_must_be_named_to_be_chosen(saved, named):
    directory, model = saved
    values = json.loads((directory / "config.json").read_text()) | {"architectures": named}
    (directory / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"architectures is .*expected one of BigBirdModel"):
        load_model(directory)
    assert torch.equal(answer(BigBirdForMaskedLM.from_pretrained(directory)), answer(model))


def test_a_directory_without_its_files_is_refused_by_what_it_lacks(saved, tmp_path):
    directory, _ = saved
    (directory / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"found no weights \(model\.safetensors"):
        load_model(directory)
    (directory / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ConfigError, match=r"config\.json: model_type must be"):
        BigBirdConfig.from_pretrained(directory)
    for content, message in (("{", "not readable JSON"), ("[]", "expected a JSON object, found list")):
        (directory / "config.json").write_text(content)
        with pytest.raises(CheckpointError, match=message):
            BigBirdConfig.from_pretrained(directory)
    (directory / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"found no config\.json"):
        BigBirdConfig.from_pretrained(directory)


def test_every_class_the_package_exports_can_be_loaded_by_name():
    exported = {name for name in bigbird.__all__ if name.startswith("BigBirdFor") or name == "BigBirdModel"}
    assert exported == set(CLASSES)
