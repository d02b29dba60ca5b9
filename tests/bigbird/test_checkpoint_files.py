"""Weight files: tied weights, shards, old layouts and spellings, and files that are damaged or hold code."""

import json
import os

import pytest
import torch
from random_checkpoints import answer, made, rewrite
from safetensors.torch import load_file

from bigbird import BigBirdForMaskedLM
from bigbird.checkpoint import load_model
from bigbird.errors import CheckpointError
from bigbird.loading.pretrained import save_pretrained


def test_a_tied_decoder_is_stored_once_and_tied_again(saved):
    directory, _ = saved
    assert "cls.predictions.decoder.weight" not in load_file(directory / "model.safetensors")
    model = load_model(directory)
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight


def test_a_tied_weight_stored_twice_must_agree(saved):
    directory, model = saved
    words, bias = "bert.embeddings.word_embeddings.weight", "cls.predictions.bias"
    doubles = {"cls.predictions.decoder.weight": words, "cls.predictions.decoder.bias": bias}
    rewrite(directory, lambda t: t | {double: t[kept].clone() for double, kept in doubles.items()})
    assert torch.equal(answer(load_model(directory)), answer(model))
    rewrite(directory, lambda t: t | {double: t[double] + 1 for double in doubles})
    with pytest.raises(CheckpointError) as error:
        load_model(directory)
    for double, kept in doubles.items():
        assert f"tied but different: {kept} and {double}" in str(error.value)


def test_an_untied_decoder_keeps_its_own_weight(tiny_config, tmp_path):
    model = made(tiny_config, "BigBirdForMaskedLM", tie_word_embeddings=False)
    model.save_pretrained(tmp_path)
    assert torch.equal(answer(load_model(tmp_path)), answer(model))
    rewrite(tmp_path, lambda t: {k: v for k, v in t.items() if k != "cls.predictions.decoder.weight"})
    with pytest.raises(CheckpointError, match=r"missing \(1\): cls\.predictions\.decoder\.weight"):
        load_model(tmp_path)


def test_shards_with_an_index_load_and_leave_nothing_stale(saved):
    directory, model = saved
    save_pretrained(model, directory, max_shard_size="20KB")
    shards = sorted(path.name for path in directory.glob("*.safetensors"))
    assert len(shards) > 2
    assert "model.safetensors" not in shards
    assert shards[0] == f"model-00001-of-{len(shards):05d}.safetensors"
    assert torch.equal(answer(load_model(directory)), answer(model))
    transformers = pytest.importorskip("transformers", reason="needs the extra named parity")
    theirs = transformers.BigBirdForMaskedLM.from_pretrained(directory)
    torch.testing.assert_close(answer(theirs), answer(model), atol=1e-5, rtol=1e-5)
    save_pretrained(model, directory)
    assert sorted(path.name for path in directory.iterdir()) == ["config.json", "model.safetensors"]


def test_an_index_that_disagrees_with_its_shards_is_refused_once(saved):
    directory, model = saved
    save_pretrained(model, directory, max_shard_size="20KB")
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    moved, lost, kept = list(index["weight_map"])[:3]
    first_shard = index["weight_map"].pop(kept)
    index["weight_map"][moved] = "../elsewhere.safetensors"
    index["weight_map"]["no.such.tensor"] = first_shard
    index["weight_map"][lost] = "gone.safetensors"
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError) as error:
        load_model(directory)
    for part in ("no shard ../elsewhere", "no shard gone", "no no.such.tensor in", f"{kept} in {first_shard} is not"):
        assert part in str(error.value)
    (directory / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="not a readable index"):
        load_model(directory)


def test_legacy_weights_load(saved):
    directory, model = saved
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    torch.save(tensors, directory / "pytorch_model.bin")
    assert torch.equal(answer(load_model(directory)), answer(model))
    (directory / "pytorch_model.bin").unlink()
    halves = {"pytorch_model-1.bin": list(tensors)[::2], "pytorch_model-2.bin": list(tensors)[1::2]}
    for name, keys in halves.items():
        torch.save({key: tensors[key] for key in keys}, directory / name)
    index = {"weight_map": {key: name for name, keys in halves.items() for key in keys}}
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert torch.equal(answer(load_model(directory)), answer(model))


class Malicious:
    def __reduce__(self):
        return (os.mkdir, ("ran",))


def test_legacy_weights_run_no_code(saved, monkeypatch):
    directory, _ = saved
    (directory / "model.safetensors").unlink()
    monkeypatch.chdir(directory)
    torch.save({"a": Malicious()}, directory / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="holds more than tensors"):
        load_model(directory)
    assert not (directory / "ran").exists()
    torch.save([torch.zeros(1)], directory / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="mapping from names to tensors"):
        load_model(directory)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("content", [b"", b"garbage" * 100])
def test_damaged_weights_are_refused(saved, name, content):
    directory, _ = saved
    (directory / "model.safetensors").unlink()
    (directory / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name):
        load_model(directory)


def test_old_spellings_and_position_buffers_load(saved):
    directory, model = saved

    def old(tensors):
        renamed = {
            k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
            for k, v in tensors.items()
        }
        return renamed | {"bert.embeddings.position_ids": torch.arange(512)[None]}

    rewrite(directory, old)
    assert torch.equal(answer(load_model(directory)), answer(model))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_when_asked(saved, bad):
    directory, _ = saved
    rewrite(directory, lambda t: t | {"bert.pooler.bias": torch.full((32,), bad)})
    load_model(directory)
    for load in (load_model, BigBirdForMaskedLM.from_pretrained):
        with pytest.raises(CheckpointError, match=r"not finite \(1\): bert\.pooler\.bias"):
            load(directory, check_finite=True)


def test_a_loaded_model_does_not_change_with_its_file(saved, tiny_config):
    directory, model = saved
    loaded = load_model(directory)
    with open(directory / "model.safetensors", "r+b") as file:
        file.seek(-4096, os.SEEK_END)
        file.write(bytes(4096))
    assert torch.equal(answer(loaded), answer(model))


def test_a_model_can_be_saved_over_the_files_it_came_from(saved):
    directory, model = saved
    loaded = load_model(directory)
    loaded.save_pretrained(directory)
    assert torch.equal(answer(load_model(directory)), answer(model))


@pytest.mark.parametrize("size", ["0", "5 apples", 0, -1])
def test_a_shard_size_that_is_none_is_refused(saved, size):
    directory, model = saved
    with pytest.raises(CheckpointError, match="max_shard_size"):
        save_pretrained(model, directory, max_shard_size=size)
