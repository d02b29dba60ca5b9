"""The keywords of from_pretrained, and what it tells, beside transformers' own."""

import pickle

import pytest
import torch
from weights import random_weights

import bigbird
from bigbird.checkpoint import CLASSES
from bigbird.errors import CheckpointError, ConfigError
from bigbird.outputs import LogitsOutput

transformers = pytest.importorskip("transformers", reason="needs the extra named parity")


@pytest.fixture(scope="module")
def directory(tiny_config, tmp_path_factory):
    """A classifier of three labels, in a subfolder named by the revision of nothing."""
    model = bigbird.BigBirdForSequenceClassification(tiny_config.replace(num_labels=3))
    random_weights(model)
    path = tmp_path_factory.mktemp("root") / "below"
    model.to(torch.bfloat16).save_pretrained(path)
    return path


def same_weights(found, expected, but=()):
    for name, parameter in expected.named_parameters():
        if not name.startswith(tuple(but)):
            assert torch.equal(found.get_parameter(name), parameter), name


def test_what_does_not_fit_is_drawn_anew_and_told_as_transformers_tells_it(directory, caplog):
    cls = "BigBirdForSequenceClassification"
    options = {"num_labels": 5, "ignore_mismatched_sizes": True, "output_loading_info": True}
    ours, info = getattr(bigbird, cls).from_pretrained(directory, **options)
    theirs, expected = getattr(transformers, cls).from_pretrained(directory, dtype=torch.float32, **options)
    assert {key: sorted(map(tuple, value)) for key, value in info.items() if key == "mismatched_keys"} == {
        "mismatched_keys": sorted((key, tuple(a), tuple(b)) for key, a, b in expected["mismatched_keys"])
    }
    assert info["missing_keys"] == info["unexpected_keys"] == info["error_msgs"] == []
    assert ours.config.num_labels == theirs.config.num_labels == 5
    same_weights(ours, theirs, but=["classifier.out_proj"])
    assert ours.classifier.out_proj.weight.std() > 0
    assert "classifier.out_proj.weight" in caplog.text
    with pytest.raises(CheckpointError, match=r"wrong shape .*classifier\.out_proj\.weight is \(3, 32\)"):
        getattr(bigbird, cls).from_pretrained(directory, num_labels=5)
    _, info = bigbird.BigBirdForMaskedLM.from_pretrained(directory, output_loading_info=True)
    _, expected = transformers.BigBirdForMaskedLM.from_pretrained(directory, output_loading_info=True)
    assert set(info["unexpected_keys"]) >= {key for key in expected["unexpected_keys"] if "pooler" not in key}
    assert set(info["missing_keys"]) >= {key for key in expected["missing_keys"] if "decoder" not in key}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, torch.float32),
        ({"dtype": "auto"}, torch.bfloat16),
        ({"torch_dtype": "auto"}, torch.bfloat16),
        ({"torch_dtype": torch.float16}, torch.float16),
        ({"dtype": "torch.float64"}, torch.float64),
        ({"device_map": "cpu"}, torch.float32),
        ({"device_map": {"": "cpu"}, "dtype": "bfloat16"}, torch.bfloat16),
    ],
)
def test_type_and_device_are_given_by_either_name(directory, options, expected):
    for load in (bigbird.load_model, bigbird.BigBirdModel.from_pretrained):
        model = load(directory, **options)
        assert (model.dtype, model.device.type, model.training) == (expected, "cpu", False)
    assert bigbird.load_model(directory, device_map="auto").device.type in ("cpu", "cuda")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"dtype": "float32", "torch_dtype": "float16"},
            ConfigError,
            "dtype and torch_dtype are two names of one",
        ),
        ({"device": "cpu", "device_map": "cpu"}, ConfigError, "device and device_map are two names of one"),
        ({"device_map": {"bert": 0, "classifier": 1}}, ConfigError, "expected one device"),
        ({"device_map": "balanced"}, ConfigError, "device_map is 'balanced', expected one device"),
        ({"dtype": "int64"}, ConfigError, "dtype must be a floating-point type"),
        ({"torch_dtpye": "auto"}, TypeError, "argument 'torch_dtpye'; the nearest it takes is 'torch_dtype'"),
        ({"load_in_8bit": True}, TypeError, "unexpected keyword argument 'load_in_8bit'"),
        ({"block_size": 0}, ConfigError, "block_size must be a whole number of at least 1"),
    ],
)
def test_what_is_not_offered_is_refused_by_name(directory, options, error, message):
    for load in (bigbird.load_model, bigbird.BigBirdModel.from_pretrained):
        with pytest.raises(error, match=message):
            load(directory, **options)


def test_configuration_labels_and_subfolder_are_taken_by_all(directory, tiny_tokenizer_dir):
    labels = {0: "a", 1: "b", 2: "c"}
    options = {"subfolder": "below", "id2label": labels, "label2id": {"a": 0, "b": 1, "c": 2}, "local_files_only": True}
    (directory / "tokenizer.json").write_bytes((tiny_tokenizer_dir / "tokenizer.json").read_bytes())
    found = bigbird.BigBirdForSequenceClassification.from_pretrained(directory.parent, **options)
    predictor = bigbird.load_predictor(
        "text-classification", directory.parent, dtype="auto", device_map="cpu", **options
    )
    assert found.config.id2label == predictor.config.id2label == labels
    assert predictor.model.dtype == torch.bfloat16
    assert {entry["label"] for entry in predictor(["a text"])[0]["labels"]} == set(labels.values())
    config = bigbird.BigBirdConfig.from_pretrained(directory, problem_type="regression")
    for given, expected in ((config, "regression"), (str(directory / "config.json"), None)):
        model = bigbird.BigBirdForSequenceClassification.from_pretrained(directory, config=given, num_labels=3)
        assert model.config.problem_type == bigbird.load_model(directory, config=given).config.problem_type == expected
    with pytest.raises(TypeError, match=r"load_predictor.*'revison'; the nearest it takes is 'revision'"):
        bigbird.load_predictor("text-classification", directory, revison="main")


@pytest.mark.parametrize("name", CLASSES)
def test_a_state_dict_of_transformers_loads_strictly_and_the_other_way_round(tiny_config, name):
    config = tiny_config.replace(is_decoder=name == "BigBirdForCausalLM")
    ours = CLASSES[name](config)
    theirs = getattr(transformers, name)(transformers.BigBirdConfig(**config.to_dict()))
    random_weights(theirs)
    assert ours.load_state_dict(theirs.state_dict(), strict=True).missing_keys == []
    same_weights(ours, theirs)
    theirs.load_state_dict(ours.state_dict(), strict=True)


def test_a_model_saves_itself_in_shards_of_a_size(directory, tmp_path):
    model = bigbird.load_model(directory)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    same_weights(transformers.BigBirdForSequenceClassification.from_pretrained(tmp_path), model)


def test_outputs_are_ordered_mappings_dataclasses_and_tuples_and_pickle():
    logits, loss = torch.ones(2, 3), torch.zeros(())
    ours = LogitsOutput(loss=loss, logits=logits)
    theirs = transformers.modeling_outputs.SequenceClassifierOutput(loss=loss, logits=logits)
    assert list(ours.keys()) == list(theirs.keys()) == ["loss", "logits"]
    assert [name for name, _ in ours.items()] == list(dict(ours)) == list(dict(**ours)) == list(theirs)
    assert all(a is b for a, b in zip(ours.values(), theirs.values(), strict=True))
    assert ours[1] is theirs[1] is ours["logits"] is ours.logits is ours.get("logits")
    assert ours[-1] is logits
    assert ours[:1] == theirs[:1] == (loss,)
    assert len(ours) == len(theirs) == len(ours.to_tuple()) == 2
    assert "attentions" not in ours
    assert ours.get("attentions", 3) == 3
    with pytest.raises(KeyError):
        _ = ours["attentions"]
    ours.update({"loss": None}, attentions=(logits,))
    theirs["attentions"] = (logits,)
    assert ours.keys() == ["logits", "attentions"]
    ours["loss"] = theirs["loss"]
    assert ours.keys() == list(theirs.keys())
    ours["no_field"] = theirs["no_field"] = 1  # transformers' fill-mask pipeline puts input_ids there
    assert ours.keys() == list(theirs.keys())
    again = pickle.loads(pickle.dumps(ours))
    assert type(again) is LogitsOutput
    assert torch.equal(again.logits, logits)
