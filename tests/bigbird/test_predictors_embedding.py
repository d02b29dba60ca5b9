"""feature-extraction: one vector a text, over all its windows."""

import numpy as np
import pytest
import torch
from tiny_predictors import tiny_predictor

from bigbird.errors import InputError
from bigbird.predictors import FeatureExtractionOptions
from bigbird.predictors.windows import cut

TEXT = "the microsoft company met Angela Merkel in Z\u00fcrich"


@pytest.fixture(scope="module")
def predictor():
    return tiny_predictor("feature-extraction")


def pooled(predictor, ids, pooling):
    with torch.inference_mode():
        states = predictor.model(torch.tensor([list(ids)])).last_hidden_state[0].numpy()
    return states[0] if pooling == "cls" else states.mean(axis=0)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_the_vector_of_a_short_text_is_its_pooled_states(predictor, pooling):
    (record,) = predictor([TEXT], FeatureExtractionOptions(pooling=pooling))
    expected = pooled(predictor, predictor.tokenizer.encode(TEXT), pooling)
    assert record["embedding"] == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_windows_weigh_as_many_tokens_as_they_keep(predictor, pooling):
    options = FeatureExtractionOptions(pooling=pooling, max_length=7, window_overlap=2)
    (item,) = predictor.preprocess([TEXT], options)
    weights = np.array([window.num_kept / 8 for window in cut(8, 5, 2)])
    assert item.num_windows == len(weights) > 1
    assert weights.sum() == pytest.approx(1)
    vectors = np.stack([pooled(predictor, row.ids.tolist(), pooling) for row in item.rows])
    (record,) = predictor([TEXT], options)
    assert record["embedding"] == pytest.approx((weights @ vectors).tolist(), abs=1e-5)


@pytest.mark.parametrize("max_length", [None, 6])
def test_normalised_vectors_have_length_one_and_the_same_direction(predictor, max_length):
    plain, unit = (
        np.array(
            predictor([TEXT], FeatureExtractionOptions(normalize=normalize, max_length=max_length))[0]["embedding"]
        )
        for normalize in (False, True)
    )
    assert np.linalg.norm(unit) == pytest.approx(1, abs=1e-6)
    assert unit == pytest.approx(plain / np.linalg.norm(plain), abs=1e-6)


def test_a_head_is_passed_over_for_its_encoder(predictor):
    with_head = tiny_predictor("text-classification")
    with_head.model.bert.load_state_dict(predictor.model.state_dict())
    headed = type(predictor)(predictor.tokenizer, with_head.config, with_head.model)
    assert headed([TEXT])[0]["embedding"] == pytest.approx(predictor([TEXT])[0]["embedding"], abs=1e-6)


def test_an_unknown_pooling_is_refused_by_name():
    with pytest.raises(InputError, match="pooling is 'last', expected one of cls, mean"):
        FeatureExtractionOptions(pooling="last")


def test_truncation_from_the_left_reads_the_last_tokens_and_says_so(predictor):
    tokenizer = predictor.tokenizer
    ids = tokenizer.encode(TEXT, add_special_tokens=False)
    (record,) = predictor([TEXT], FeatureExtractionOptions(on_long="truncate", max_length=7, truncation_side="left"))
    expected = pooled(predictor, [tokenizer.cls_token_id, *ids[-5:], tokenizer.sep_token_id], "mean")
    assert record["embedding"] == pytest.approx(expected.tolist(), abs=1e-5)
    assert (record["num_tokens"], record["truncated"]) == (5, True)
    short = predictor(["the company"], FeatureExtractionOptions(on_long="truncate", truncation_side="left"))
    assert not short[0]["truncated"]
    with pytest.raises(InputError, match='truncation_side is "left", but on_long is "window"'):
        FeatureExtractionOptions(truncation_side="left")
