"""Entities from logits: equal to transformers' token-classification pipeline, strategy by strategy."""

import json
import re
import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_predictors import SPECIAL_ROLES, tiny_predictor, train
from tokenizers import Tokenizer

from bigbird import BigBirdForTokenClassification
from bigbird.config import BigBirdConfig
from bigbird.errors import InputError
from bigbird.predictors import load_predictor
from bigbird.predictors.entities import STRATEGIES, LabelSet, aggregate, name_starts, word_starts
from bigbird.predictors.token_classification import TokenClassificationOptions, TokenClassificationPredictor
from bigbird.tokenization.tokenizer import BigBirdTokenizer

TEXTS = [
    "the microsoft company",
    "  two  spaces\tand\nnew lines, punctuation: (np.array)  ",
    "the caf\u00e9 in Z\u00fcrich \u4e16\u754c and \U0001f642 emoji, \u05e9\u05dc\u05d5\u05dd",
    "a\x00b def microsoft_company(parameter): pass",
    "x",
]
LABELS = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG", "LOC", "MISC-THING"]


@pytest.fixture(scope="module", params=["byte-level", "sentence-piece"])
def oracle_and_predictor(request):
    transformers = pytest.importorskip("transformers")
    saved = train(request.param).to_str()
    oracle_tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(saved), **SPECIAL_ROLES)
    shape = {
        "vocab_size": len(oracle_tokenizer),
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 8,
    }
    id2label = dict(enumerate(LABELS))
    model = transformers.BigBirdForTokenClassification(transformers.BigBirdConfig(**shape, id2label=id2label))
    oracle = transformers.TokenClassificationPipeline(model=model, tokenizer=oracle_tokenizer, device="cpu")
    tokenizer = BigBirdTokenizer(Tokenizer.from_str(saved), SPECIAL_ROLES)
    return oracle, TokenClassificationPredictor(tokenizer, BigBirdConfig(**shape, id2label=id2label))


def of_oracle(oracle, text, logits, strategy):
    inputs = oracle.tokenizer(text, return_tensors="pt", return_special_tokens_mask=True, return_offsets_mapping=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Tokenizer does not support real words")
        return oracle.postprocess(
            [{**inputs, "logits": torch.from_numpy(logits)[None], "sentence": text, "is_last": True}],
            aggregation_strategy=oracle_strategy(strategy),
        )


def oracle_strategy(strategy):
    from transformers.pipelines.token_classification import AggregationStrategy

    return AggregationStrategy(strategy)


def logits_with_runs(num_tokens, seed):
    """Random logits whose best label often stays the same for several tokens, as a trained model's does."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(num_tokens, len(LABELS))).astype(np.float32)
    labels = np.repeat(generator.integers(0, len(LABELS), num_tokens), generator.integers(1, 5, num_tokens))
    logits[np.arange(num_tokens), labels[:num_tokens]] += generator.uniform(0, 4)
    return logits


@pytest.mark.parametrize("strategy", [strategy for strategy in STRATEGIES if strategy != "words"])
@given(
    text=st.sampled_from(TEXTS) | st.text("ab\u00e9 \n.\U0001f642\u0627", min_size=1),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_entities_equal_transformers_on_the_same_logits(oracle_and_predictor, strategy, text, seed):
    oracle, predictor = oracle_and_predictor
    options = TokenClassificationOptions(aggregation_strategy=strategy)
    prepared = predictor.preprocess([text], options)
    if not hasattr(prepared[0], "num_tokens"):
        return  # nothing to tag in it
    logits = logits_with_runs(prepared[0].num_tokens + 2, seed)
    (record,) = predictor.postprocess(prepared, [logits[1:-1]], options)
    expected = of_oracle(oracle, text, logits, strategy)
    assert len(record["entities"]) == len(expected)
    for ours, theirs in zip(record["entities"], expected, strict=True):
        assert ours.pop("score") == pytest.approx(float(theirs.pop("score")), abs=1e-6)
        assert ours.pop("text") == text[ours["start"] : ours["end"]]
        assert ours == theirs


def test_a_word_takes_the_label_of_its_first_surest_or_average_token():
    labels = LabelSet(dict(enumerate(["O", "A", "B"])))
    # two words of two tokens: the first token says A weakly, the second B strongly
    logits = np.log(np.array([[0.3, 0.4, 0.3], [0.1, 0.1, 0.8]] * 2, dtype=np.float32))
    starts = np.array([0, 2])
    for strategy, label, score in (("first", "A", 0.4), ("max", "B", 0.8), ("average", "B", 0.55)):
        (entity,) = aggregate(logits, labels, strategy, starts)
        assert (entity.label, entity.words) == (label, ((0, 2), (2, 4)))
        assert entity.score == pytest.approx(score, abs=1e-6)


def test_ignored_labels_can_be_chosen():
    labels = LabelSet(dict(enumerate(["O", "B-A", "I-A"])))
    logits = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    starts = np.arange(4)
    assert [entity.label for entity in aggregate(logits, labels, "simple", starts)] == ["A"]
    assert [entity.label for entity in aggregate(logits, labels, "simple", starts, ())] == ["O", "A", "O"]
    assert [entity.label for entity in aggregate(logits, labels, "none", starts, ("B-A",))] == ["O", "I-A", "O"]


def test_words_begin_at_spaces_at_the_start_and_at_unknown_tokens():
    text = "ab cd ef"
    offsets = np.array([[0, 1], [1, 2], [2, 5], [6, 7], [7, 8]])
    unknown = np.array([False, False, False, False, True])
    assert word_starts(text, offsets, unknown).tolist() == [0, 2, 3, 4]


def test_for_source_code_a_word_is_a_name_and_every_sign_stands_alone():
    text = "x.run_it(\u00e9a1)"
    offsets = np.array([[0, 1], [1, 2], [2, 5], [5, 8], [8, 9], [9, 11], [11, 12], [12, 13]])
    assert name_starts(text, offsets).tolist() == [0, 1, 2, 4, 5, 7]


SIGNS = "a\u2014b \U0001f642 \u2014 \U0001f469\u200d\U0001f680 caf\u00e9 \u4e16\u754c \U0001f642\U0001f642."


@given(text=st.text(SIGNS, min_size=1, max_size=12), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_by_words_no_character_is_parted_into_several_entities(oracle_and_predictor, text, seed):
    _, predictor = oracle_and_predictor
    options = TokenClassificationOptions(aggregation_strategy="words", ignore_labels=[])
    (item,) = predictor.preprocess([text], options)
    if not hasattr(item, "num_tokens"):
        return  # nothing to tag in it
    (record,) = predictor.postprocess([item], [logits_with_runs(item.num_tokens, seed)], options)
    spans = [(entity["start"], entity["end"]) for entity in record["entities"]]
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    assert all(entity["text"] == text[slice(*span)] for entity, span in zip(record["entities"], spans, strict=True))
    assert not any("\ufffd" in entity["word"] for entity in record["entities"])


def test_a_checkpoint_can_ask_for_words_and_a_call_for_something_else(tiny_checkpoint):
    directory = tiny_checkpoint(BigBirdForTokenClassification, num_labels=3)
    text = "def run_it(argument_one, two): return argument_one + two " * 20
    by_tokens = load_predictor("token-classification", directory)([text])[0]["entities"]
    config = json.loads((directory / "config.json").read_text())
    config["task_specific_params"] = {"token-classification": {"aggregation_strategy": "words"}}
    (directory / "config.json").write_text(json.dumps(config))
    predictor = load_predictor("token-classification", directory)
    assert predictor([text], TokenClassificationOptions(aggregation_strategy="simple"))[0]["entities"] == by_tokens
    by_words = predictor([text])[0]["entities"]
    inside = re.compile(r"\w\w")
    places = {place for entity in by_words for place in (entity["start"], entity["end"])}
    assert by_words != by_tokens
    assert not any(inside.fullmatch(text[place - 1 : place + 1]) for place in places if place)

    config["task_specific_params"]["token-classification"]["aggregation_strategy"] = "none"
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"params\.aggregation_strategy is 'none', expected one of simple"):
        load_predictor("token-classification", directory)


def test_an_unknown_strategy_is_refused_by_name():
    with pytest.raises(InputError, match="aggregation_strategy is 'best', expected one of none, simple"):
        TokenClassificationOptions(aggregation_strategy="best")


def test_each_token_of_a_long_text_has_the_logits_of_the_window_that_keeps_it():
    predictor = tiny_predictor("token-classification")
    options = TokenClassificationOptions(max_length=150, window_overlap=40)
    (item,) = predictor.preprocess(["the microsoft company met Angela Merkel in Z\u00fcrich " * 40], options)
    (logits,) = predictor.forward([item])
    assert len(logits) == item.num_tokens
    assert len(item.windows) > 2
    for window, row in zip(item.windows, item.rows, strict=True):
        with torch.inference_mode():
            expected = predictor.model(torch.from_numpy(row.ids.astype(np.int64))[None]).logits[0, 1:-1].numpy()
        kept = slice(window.keep_start, window.keep_stop)
        assert np.abs(logits[kept] - expected[window.kept]).max() < 1e-4


def test_entities_of_a_document_in_windows_are_found_at_its_own_characters():
    predictor = tiny_predictor("token-classification")
    text = "the microsoft company met Angela Merkel " * 60
    (item,) = predictor.preprocess([text], TokenClassificationOptions(max_length=64))
    assert item.num_windows > 3
    logits = np.zeros((item.num_tokens, 5), dtype=np.float32)
    logits[:, 0] = 1
    logits[[0, item.num_tokens // 2, item.num_tokens - 1], 3] = 9
    (record,) = predictor.postprocess([item], [logits])
    assert [entity["entity_group"] for entity in record["entities"]] == ["ORG"] * 3
    for entity in record["entities"]:
        assert text[entity["start"] : entity["end"]] == entity["word"]
