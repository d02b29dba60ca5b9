"""The configuration: every range, assignment, and the ways in and out, beside transformers' own."""

import copy
import json
import pickle
from collections.abc import Hashable

import pytest

from bigbird import BigBirdConfig, BigBirdModel
from bigbird.config_values import HIDDEN_ACTIVATIONS, PROBLEM_TYPES, RULES
from bigbird.errors import CheckpointError, ConfigError

transformers = pytest.importorskip("transformers", reason="needs the extra named parity")

AT_LEAST_1 = {"vocab_size", "hidden_size", "num_attention_heads", "intermediate_size", "block_size"}
AT_LEAST_1 |= {"max_position_embeddings", "type_vocab_size"}
AT_LEAST_0 = {"num_hidden_layers", "num_random_blocks"}
FLAGS = {"use_bias", "rescale_embeddings", "is_decoder", "add_cross_attention", "use_cache", "tie_word_embeddings"}
FLAGS |= {"output_attentions", "output_hidden_states", "return_dict"}
PROBABILITIES = {"hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"}

# For each key values just outside its range, and values just inside.
RANGES = {
    **dict.fromkeys(AT_LEAST_1, ([0, -1, 1.5, "1", None, True], [1, 12])),
    **dict.fromkeys(AT_LEAST_0, ([-1, 0.5, None, False], [0, 3])),
    **dict.fromkeys(FLAGS, ([1, 0, None, "yes"], [True, False])),
    **dict.fromkeys(PROBABILITIES, ([-0.01, 1, 1.5, "0", True], [0, 0.999])),
    "initializer_range": ([-0.001, None, "small"], [0, 0.02]),
    "layer_norm_eps": ([0, -1e-12, None], [1e-12]),
    "hidden_act": (["gelu_old", "", None, 3], HIDDEN_ACTIVATIONS),
    "attention_type": (["sparse", None], ["block_sparse", "original_full"]),
    "random_attention": (["zero", None], ["collapsed", "seeded"]),
    "problem_type": (["classification", 1], [None, *PROBLEM_TYPES]),
    "pad_token_id": ([-1, 0.0, "0", True], [None, 0, 5]),
    "bos_token_id": ([1.5, "1"], [None, 1]),
    "sep_token_id": ([1.5, "1"], [None, 1]),
    "eos_token_id": ([1.5, "2", (1, "2"), [None]], [None, 2, (1, 2)]),
    "id2label": ([{}, {1: "a"}, {0: "a", 2: "b"}, ["a"], {"x": "a"}, None], [{0: "a"}, {1: "b", 0: "a"}]),
    "architectures": ([[1], 3], [(), ("BigBirdModel",)]),
    "extra": ([{1: 2}, 3], [{}, {"a": 1}]),
}


def test_every_key_has_a_range_that_is_tested_here():
    assert RANGES.keys() == RULES.keys() == BigBirdConfig().__dict__.keys()


@pytest.mark.parametrize("key", sorted(RANGES))
def test_values_outside_their_range_are_refused_by_name_wherever_they_come_from(key):
    outside, inside = RANGES[key]
    own = {"is_decoder": True} if key == "add_cross_attention" else {"is_decoder": False}
    fitting = {"num_attention_heads": 1, **own}  # nothing to divide by, and a decoder for cross-attention
    config = BigBirdConfig(**fitting | ({"hidden_size": 12} if key == "num_attention_heads" else {}))
    for value in outside:
        if value is not None or key not in ("id2label", "extra"):  # as arguments: not given
            with pytest.raises(ConfigError, match=f"^{key} must be "):
                BigBirdConfig(**{key: value})
        before = getattr(config, key)
        with pytest.raises(ConfigError, match=f"^{key} must be "):
            setattr(config, key, value)
        assert getattr(config, key) == before
    for value in inside:
        assert getattr(config.replace(**{key: value}), key) == value
        setattr(config, key, value)
        assert getattr(config, key) == value
    if (
        key not in ("architectures", "id2label", "extra", "classifier_dropout", "problem_type")
        and outside[0] is not None
    ):
        with pytest.raises(ConfigError, match=f"^{key} must be "):
            BigBirdConfig.from_dict({key: outside[0]})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"hidden_size": 10, "num_attention_heads": 4},
            "hidden_size must be a multiple of num_attention_heads=4, got 10",
        ),
        ({"add_cross_attention": True}, "add_cross_attention must be False unless is_decoder, got True"),
        ({"pad_token_id": 10, "vocab_size": 10}, "pad_token_id must be below vocab_size=10, got 10"),
        ({"num_labels": 0}, "num_labels must be a whole number of at least 1, got 0"),
        ({"num_labels": 3, "id2label": {0: "a"}}, "num_labels must be the number of labels, 1, got 3"),
        ({"label2id": {"b": 0}, "id2label": {0: "a"}}, "label2id must be the same labels as id2label"),
        ({"label2id": {"b": 1}}, "id2label must be labels numbered from 0"),
        ({"label2id": ["b"]}, "label2id must be a mapping from labels to numbers"),
        ({"model_type": "bert"}, "model_type must be 'big_bird'"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder must be False"),
    ],
)
def test_values_that_do_not_go_together_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        BigBirdConfig(**values)


def test_a_model_is_not_made_of_values_assigned_that_do_not_go_together():
    config = BigBirdConfig(hidden_size=12, num_attention_heads=2, num_hidden_layers=1)
    config.hidden_size = 13
    with pytest.raises(ConfigError, match="hidden_size must be a multiple"):
        BigBirdModel(config)


def test_defaults_and_dictionaries_equal_transformers():
    ours, theirs = BigBirdConfig(), transformers.BigBirdConfig()
    for key, value in ours.to_dict().items():
        if key in ("architectures", "random_attention", "id2label"):
            continue
        assert getattr(theirs, key) == value, key
    assert BigBirdConfig.from_dict(theirs.to_dict()).replace(extra={}) == ours
    assert BigBirdConfig(**theirs.to_dict()).replace(extra={}) == ours
    assert BigBirdConfig.from_dict(ours.to_dict()) == BigBirdConfig(**ours.to_dict()) == ours


def test_labels_are_given_and_assigned_as_in_transformers():
    labels, numbers = {0: "no", 1: "yes", 2: "perhaps"}, {"no": 0, "yes": 1, "perhaps": 2}
    for values in ({"num_labels": 3}, {"id2label": labels}, {"num_labels": 3, "id2label": labels, "label2id": numbers}):
        ours, theirs = BigBirdConfig(**values), transformers.BigBirdConfig(**values)
        assert (ours.num_labels, ours.id2label) == (theirs.num_labels, theirs.id2label)
        for count in (ours.num_labels, 5):
            ours.num_labels = theirs.num_labels = count
            assert (ours.num_labels, ours.id2label) == (count, theirs.id2label)
            assert ours.label2id == {label: index for index, label in theirs.id2label.items()}
    assert BigBirdConfig(label2id=numbers).id2label == labels
    assert BigBirdConfig(id2label={"1": "b", "0": "a"}).id2label == {1: "b", 0: "a"}
    config = BigBirdConfig()
    config.label2id = numbers
    assert config.id2label == labels
    assert config.replace(num_labels=3).id2label == labels
    assert config.replace(num_labels=2).id2label == BigBirdConfig().id2label


def test_values_and_keys_of_ones_own_are_assigned_read_saved_and_loaded(tmp_path):
    config = BigBirdConfig(task_specific_params={"a": 1}, output_attentions=True, eos_token_id=[2, 3])
    config.is_decoder = True
    config.my_own = [1, 2]
    assert config.my_own == [1, 2]
    assert config.task_specific_params == {"a": 1}
    assert config.use_return_dict is True
    assert config.model_type == "big_bird"
    assert config.is_encoder_decoder is False
    config.save_pretrained(tmp_path)
    assert BigBirdConfig.from_pretrained(tmp_path) == BigBirdConfig.from_pretrained(tmp_path / "config.json") == config
    theirs = transformers.BigBirdConfig.from_pretrained(tmp_path)
    assert (theirs.is_decoder, theirs.my_own, theirs.eos_token_id) == (True, [1, 2], [2, 3])
    assert json.loads(config.to_json_string()) == config.to_dict()
    with pytest.raises(AttributeError, match="BigBirdConfig has no nothing"):
        _ = config.nothing


def test_copies_are_equal_and_apart_and_nothing_claims_a_hash():
    config = BigBirdConfig(num_labels=3, task_specific_params={"a": [1]})
    for copied in (copy.copy(config), copy.deepcopy(config), pickle.loads(pickle.dumps(config)), config.replace()):
        assert copied == config
        assert copied is not config
    other = config.replace(hidden_size=24)
    other.extra["task_specific_params"]["a"].append(2)
    other.id2label[3] = "more"
    assert config.task_specific_params == {"a": [1]}
    assert config.num_labels == 3
    assert config != other
    assert not isinstance(config, Hashable)
    assert repr(config).startswith("BigBirdConfig(vocab_size=50358, ")


def test_keywords_of_from_pretrained_change_values_and_others_are_refused(tmp_path):
    (tmp_path / "below").mkdir()
    BigBirdConfig(vocab_size=99).save_pretrained(tmp_path / "below")
    found = BigBirdConfig.from_pretrained(tmp_path, subfolder="below", num_labels=4, block_size=16, revision="main")
    assert (found.vocab_size, found.num_labels, found.block_size) == (99, 4, 16)
    for call in (BigBirdConfig, lambda **given: BigBirdConfig.from_pretrained(tmp_path / "below", **given)):
        with pytest.raises(
            TypeError, match="unexpected keyword argument 'num_lables'; the nearest it takes is 'num_labels'"
        ):
            call(num_lables=3)
    with pytest.raises(ConfigError, match=r"config\.json: block_size must be a whole number of at least 1, got 0"):
        BigBirdConfig.from_pretrained(tmp_path / "below", block_size=0)
    with pytest.raises(ConfigError, match="no such configuration key: num_lables"):
        found.replace(num_lables=3)
    with pytest.raises(CheckpointError, match=r"found no config\.json"):
        BigBirdConfig.from_pretrained(tmp_path)
