"""return_windows: what each window says by itself, and which characters it reads."""

import numpy as np
import pytest
from tiny_predictors import tiny_model, tiny_predictor

from bigbird.errors import InputError
from bigbird.predictors import FeatureExtractionOptions, ZeroShotClassificationPredictor

TEXT = "the microsoft company met Angela Merkel in Z\u00fcrich, " * 12
TASKS = ["text-classification", "question-answering", "feature-extraction", "masked-lm-scoring"]
WINDOWS = {"max_length": 60, "window_overlap": 10}


def asked(task, text):
    return {"question": "who?", "context": text} if task == "question-answering" else text


@pytest.mark.parametrize("task", TASKS)
def test_each_window_says_what_its_own_text_says(task):
    predictor = tiny_predictor(task)
    record = predictor(asked(task, TEXT), **WINDOWS, return_windows=True)
    assert len(record["windows"]) == record["num_windows"] > 2
    assert (record["windows"][0]["start"], record["windows"][-1]["end"]) == (0, len(TEXT))
    for window, after in zip(record["windows"], record["windows"][1:], strict=False):
        assert window["start"] < after["start"] < window["end"] < after["end"]  # neighbours share some text
    assert predictor(asked(task, TEXT), **WINDOWS).items() <= record.items()
    (one,) = predictor(asked(task, "Angela met"), return_windows=True)["windows"]
    assert (one["start"], one["end"]) == (0, 10)
    if task == "masked-lm-scoring":
        return  # below
    (item,) = predictor.preprocess([asked(task, TEXT)], type(predictor.options)(**WINDOWS))
    outputs = predictor.forward([item])
    for index, window in enumerate(record["windows"]):
        if task == "feature-extraction":
            assert window["embedding"] == pytest.approx(outputs[0][index, 1].tolist(), abs=1e-6)
        elif task == "text-classification":
            labels = [label["label"] for label in window["labels"]]
            assert labels == [predictor.config.id2label[i] for i in np.argsort(-outputs[0][index])]
        else:
            (answer,) = window["answers"]
            assert window["start"] <= answer["start"] < answer["end"] <= window["end"] + 10  # a word may go beyond


def test_the_losses_of_windows_average_to_the_texts():
    predictor = tiny_predictor("masked-lm-scoring")
    (item,) = predictor.preprocess([TEXT], type(predictor.options)(**WINDOWS))
    record = predictor(TEXT, **WINDOWS, return_windows=True)
    kept = [window.num_kept for window in item.windows]
    assert np.average([window["nll"] for window in record["windows"]], weights=kept) == pytest.approx(record["nll"])


def test_of_a_pair_the_windows_are_of_the_longer_text():
    predictor = tiny_predictor("text-classification")
    record = predictor({"text": "who?", "text_pair": TEXT}, **WINDOWS, return_windows=True)
    assert record["windows"][-1]["end"] == len(TEXT)


def test_zero_shot_labels_are_scored_in_each_window():
    tagger = tiny_predictor("text-classification")
    model = tiny_model("text-classification", tagger.tokenizer, id2label={0: "contradiction", 1: "entailment"})
    predictor = ZeroShotClassificationPredictor(tagger.tokenizer, model.config, model)
    record = predictor(TEXT, candidate_labels=["a", "b"], **WINDOWS, return_windows=True)
    assert len(record["windows"]) == record["num_windows"] > 2
    assert all(len(window["labels"]) == 2 for window in record["windows"])


def test_windows_of_every_tokens_states_are_refused_by_name():
    with pytest.raises(InputError, match="return_windows is for one vector a window"):
        FeatureExtractionOptions(pooling="none", return_windows=True)
