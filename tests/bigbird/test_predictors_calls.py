"""How a predictor is called: one example or several, options as one object or by name, each applied or refused."""

import numpy as np
import pytest
from tiny_predictors import EXAMPLES, TASKS, tiny_predictor

from bigbird.errors import InputError
from bigbird.predictors import (
    OPTIONS,
    FeatureExtractionOptions,
    FillMaskOptions,
    MaskedLMScoringOptions,
    QuestionAnsweringOptions,
    TokenClassificationOptions,
)


@pytest.mark.parametrize("task", TASKS)
def test_one_example_gives_its_record_and_several_give_a_list(task):
    predictor, example = tiny_predictor(task), EXAMPLES[task]
    (record,) = predictor([example])
    assert "error" not in record
    assert predictor(example) == record
    assert predictor(examples=example) == record
    assert predictor(each for each in (example, None))[0] == record
    if isinstance(example, str):
        assert predictor(np.array([example])) == [record]
        assert predictor("")["error"]["type"] == "InputError"
    else:
        assert predictor(**example) == record
        with pytest.raises(InputError, match=f"pass the examples, or {next(iter(example))} and .* by name, not both"):
            predictor([example], **example)
    for nothing in (None, 7, b"text"):
        with pytest.raises(InputError, match=r"examples is .*, expected one example or several"):
            predictor(nothing)
    with pytest.raises(InputError, match="expected a list of them"):
        predictor.preprocess(example)


def test_options_by_name_change_one_call_and_the_rest_stays_the_predictors_own():
    predictor = tiny_predictor("fill-mask", options=FillMaskOptions(top_k=3, on_long="truncate"))
    long = "the [MASK] company " * 300
    record = predictor(long, top_k=2)
    assert (len(record["masks"][0]["candidates"]), record["truncated"]) == (2, True)
    assert len(predictor(long)["masks"][0]["candidates"]) == 3
    with pytest.raises(InputError, match=r"topk is not an option of this task; did you mean top_k\?"):
        predictor(long, topk=2)
    with pytest.raises(InputError, match="zzz is not an option of this task; the options are on_long"):
        predictor(long, zzz=2)
    for wrong in ({"top_k": 3}, QuestionAnsweringOptions()):
        with pytest.raises(InputError, match=r"options for fill-mask are \w+, expected FillMaskOptions"):
            predictor(long, wrong)


def test_lists_in_options_are_kept_as_tuples_so_that_options_stay_hashable():
    listed = TokenClassificationOptions(ignore_labels=["O", "B-PER"])
    assert hash(listed) == hash(TokenClassificationOptions(ignore_labels=("O", "B-PER")))
    assert {option: 1 for kind in OPTIONS.values() for option in [kind()]}


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (TokenClassificationOptions, {"ignore_labels": "O"}, "ignore_labels is 'O', expected a list of str"),
        (TokenClassificationOptions, {"ignore_labels": [0]}, r"ignore_labels\[0\] is 0, expected a string"),
        (FeatureExtractionOptions, {"normalize": "no"}, "normalize is 'no', expected True or False"),
        (MaskedLMScoringOptions, {"return_tokens": 1}, "return_tokens is 1, expected True or False"),
        (MaskedLMScoringOptions, {"num_passes": 2.0}, r"num_passes is 2\.0, expected an integer"),
        (MaskedLMScoringOptions, {"num_passes": True}, "num_passes is True, expected an integer"),
        (QuestionAnsweringOptions, {"allow_no_answer": "false"}, "allow_no_answer is 'false'"),
        (QuestionAnsweringOptions, {"max_question_len": 0}, "max_question_len is 0, expected an integer of at least 1"),
        (FillMaskOptions, {"max_length": "512"}, "max_length is '512', expected an integer"),
        (FillMaskOptions, {"on_long": ["window"]}, r"on_long is \['window'\], expected one of window, truncate, error"),
    ],
)
def test_values_of_another_type_are_refused_by_name(kind, values, message):
    with pytest.raises(InputError, match=message):
        kind(**values)
