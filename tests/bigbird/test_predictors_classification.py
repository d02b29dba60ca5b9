"""text-classification and multiple-choice: the model's own logits, joined over windows, as scores."""

import numpy as np
import pytest
import torch
from tiny_predictors import LABELS, tiny_predictor

from bigbird.errors import InputError
from bigbird.predictors import MultipleChoiceOptions, TextClassificationOptions

TEXT = "the microsoft company met Angela"
PAIR = {"text": "the microsoft company", "text_pair": "met Angela Merkel"}
QUESTION = {"prompt": "who met Angela?", "choices": ["the microsoft company", "numpy", "the caf\u00e9 in Z\u00fcrich"]}


@pytest.fixture(scope="module")
def classifier():
    return tiny_predictor("text-classification")


@pytest.fixture(scope="module")
def chooser():
    return tiny_predictor("multiple-choice")


def logits_of(predictor, *rows):
    """The model's logits, one row at a time through its padded interface; rows are (ids, token types)."""
    with torch.inference_mode():
        return np.stack(
            [
                predictor.model(torch.tensor([ids]), token_type_ids=torch.tensor([types])).logits[0].numpy()
                for ids, types in rows
            ]
        )


def encoded(predictor, *texts):
    ids = predictor.tokenizer.encode(*texts)
    return ids, [0] * len(ids)


def scores_in_label_order(record):
    scores = {entry["label"]: entry["score"] for entry in record["labels"]}
    return [scores[label] for label in LABELS]


def softmax(logits):
    return (np.exp(logits) / np.exp(logits).sum()).tolist()


def test_all_labels_come_sorted_with_the_models_probabilities(classifier):
    (record,) = classifier([TEXT])
    (logits,) = logits_of(classifier, encoded(classifier, TEXT))
    assert scores_in_label_order(record) == pytest.approx(softmax(logits), abs=1e-5)
    scores = [entry["score"] for entry in record["labels"]]
    assert scores == sorted(scores, reverse=True)


def test_a_pair_is_read_with_both_texts_of_type_0(classifier):
    (record,) = classifier([PAIR])
    (logits,) = logits_of(classifier, encoded(classifier, *PAIR.values()))
    assert scores_in_label_order(record) == pytest.approx(softmax(logits), abs=1e-5)
    assert record["num_tokens"] == len(classifier.tokenizer.encode(*PAIR.values())) - 3


@pytest.mark.parametrize(
    ("changes", "option", "expected"),
    [
        ({}, None, "softmax"),
        ({"problem_type": "single_label_classification"}, None, "softmax"),
        ({"problem_type": "multi_label_classification"}, None, "sigmoid"),
        ({"problem_type": "regression"}, None, "none"),
        ({"problem_type": "regression"}, "sigmoid", "sigmoid"),
        ({"problem_type": "multi_label_classification"}, "softmax", "softmax"),
        ({}, "none", "none"),
        ({"id2label": {0: "score"}}, None, "sigmoid"),
        ({"id2label": {0: "score"}, "problem_type": "regression"}, None, "none"),
    ],
)
def test_logits_become_scores_by_the_problem_type_or_as_asked(changes, option, expected):
    transformers = pytest.importorskip("transformers")
    predictor = tiny_predictor("text-classification", **changes)
    (record,) = predictor([TEXT], TextClassificationOptions(function_to_apply=option))
    logits = logits_of(predictor, encoded(predictor, TEXT))
    oracle = object.__new__(transformers.TextClassificationPipeline)
    oracle.model = type("Model", (), {"config": predictor.config})
    theirs = oracle.postprocess(
        {"logits": torch.from_numpy(logits)},
        function_to_apply=option and transformers.pipelines.text_classification.ClassificationFunction(option),
        top_k=None,
        _legacy=False,
    )
    assert [entry["label"] for entry in record["labels"]] == [entry["label"] for entry in theirs]
    ours = [entry["score"] for entry in record["labels"]]
    assert ours == pytest.approx([entry["score"] for entry in theirs], abs=1e-5)
    by_hand = {"softmax": softmax(logits[0]), "sigmoid": 1 / (1 + np.exp(-logits[0])), "none": logits[0]}[expected]
    assert sorted(ours) == pytest.approx(sorted(by_hand), abs=1e-5)


@pytest.mark.parametrize(("combine", "join"), [("mean", np.mean), ("max", np.max)])
def test_windows_of_a_long_text_are_joined_label_by_label(classifier, combine, join):
    options = TextClassificationOptions(max_length=8, window_overlap=2, combine=combine, function_to_apply="none")
    text = f"{TEXT} def value(parameter): the caf\u00e9"
    (item,) = classifier.preprocess([text], options)
    assert len(item.rows) > 2
    logits = logits_of(classifier, *((row.ids.tolist(), [0] * len(row)) for row in item.rows))
    (record,) = classifier([text], options)
    assert scores_in_label_order(record) == pytest.approx(join(logits, axis=0).tolist(), abs=1e-4)
    assert record["num_windows"] == len(item.rows)


@pytest.mark.parametrize("long_part", ["text", "text_pair"])
@pytest.mark.parametrize("on_long", ["window", "truncate"])
def test_of_a_long_pair_the_longer_text_is_cut_and_the_other_stays_whole(classifier, long_part, on_long):
    pair = {"text": "the company", "text_pair": "the company"} | {long_part: "the microsoft company " * 400}
    (item,) = classifier.preprocess([pair], TextClassificationOptions(on_long=on_long))
    short = classifier.tokenizer.encode("the company", add_special_tokens=False)
    assert item.truncated is (on_long == "truncate")
    for row in item.rows:
        assert len(row) <= 512
        first, second = row.ids[1 : row.second - 1].tolist(), row.ids[row.second : -1].tolist()
        assert (first if long_part == "text_pair" else second) == short


def test_a_pair_too_long_in_both_texts_is_an_error_record(classifier):
    long = "the microsoft company " * 400
    for pair in ({"text": long, "text_pair": long}, {"text": "a", "text_pair": None}, {"text_pair": "a"}):
        (record,) = classifier([pair])
        assert record["error"]["message"].startswith(
            ("text: the other parts", "text_pair is null", "the example lacks")
        )


def test_choices_get_the_models_probabilities_in_the_order_given(chooser):
    (record,) = chooser([QUESTION])
    rows = [chooser.tokenizer.encode(QUESTION["prompt"], choice) for choice in QUESTION["choices"]]
    with torch.inference_mode():
        logits = np.array([chooser.model(torch.tensor([[ids]])).logits.item() for ids in rows])
    assert record["choices"] == pytest.approx(softmax(logits), abs=1e-5)
    assert record["best"] == int(logits.argmax())


def test_all_choices_are_judged_by_the_same_windows_of_a_long_prompt(chooser):
    (item,) = chooser.preprocess([{**QUESTION, "prompt": "the microsoft company " * 400}])
    assert item.num_windows > 1
    prompts = [row.ids[1 : row.second - 1].tolist() for row in item.rows]
    for window in range(item.num_windows):
        of_window = prompts[3 * window : 3 * window + 3]
        assert of_window[0] == of_window[1] == of_window[2]
    assert all(len(row) <= 512 for row in item.rows)


@pytest.mark.parametrize(("combine", "best"), [("mean", 0), ("max", 1)])
def test_windows_of_a_long_prompt_are_joined_choice_by_choice(chooser, combine, best):
    (item,) = chooser.preprocess([QUESTION])
    logits = np.array([[3, 0], [3, 5]], dtype=np.float32)
    (record,) = chooser.postprocess([item], [logits], MultipleChoiceOptions(combine=combine))
    assert record["best"] == best


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"choices": []}, "choices has 0 strings"),
        ({"choices": "abc"}, "choices is of type str, expected a list"),
        ({"choices": ["a", None]}, r"choices\[1\] is null"),
        ({"choices": ["a", ""]}, r"choices\[1\] is empty"),
        ({"prompt": 3}, "prompt is of type int"),
        ({"prompt": "a" * 900, "choices": ["a"] * 2000}, "more than max_tokens_per_document=1000000"),
        ({"choices": ["the microsoft company " * 400]}, "prompt: .* no room"),
    ],
)
def test_bad_choices_are_error_records_that_say_why(chooser, changes, message):
    good, bad = chooser([QUESTION, {**QUESTION, **changes}])
    assert "error" not in good
    with pytest.raises(InputError, match=message):
        raise InputError(bad["error"]["message"])
