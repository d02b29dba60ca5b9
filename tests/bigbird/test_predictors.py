"""What holds for the predictor of every task: order, batch invariance, errors in place, documents of any length."""

import json
import pickle

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_predictors import TASKS, near, tiny_predictor

from bigbird.errors import InputError
from bigbird.predictors import Failed
from bigbird.predictors.batches import micro_batches

COUNTS = {"num_tokens", "num_windows", "truncated"}
WORDS = ["the", "microsoft", "company", "def", "met", "Angela", "(value)", "+", "café", "世界\n"]


def example(task, text):
    """The text as an example of the task."""
    if task == "fill-mask":
        return f"{text} [MASK]"
    if task == "question-answering":
        return {"question": "who met the company?", "context": text}
    if task == "multiple-choice":
        return {"prompt": text, "choices": ["Angela", "the microsoft company", "caf\u00e9"]}
    return text


@pytest.fixture(scope="module", params=TASKS)
def predictor(request):
    return tiny_predictor(request.param)


texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=300).map(" ".join)


@given(batch=st.lists(texts, min_size=1, max_size=5), budget=st.sampled_from([1, 300, 100_000]))
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
def test_an_example_alone_equals_the_example_in_a_batch(predictor, batch, budget):
    examples = [example(predictor.task, text) for text in batch]
    alone = [predictor([item])[0] for item in examples]
    predictor.max_tokens_per_batch, before = budget, predictor.max_tokens_per_batch
    together = predictor(examples)
    predictor.max_tokens_per_batch = before
    assert all(map(near, alone, together))


def test_bad_examples_become_error_records_in_their_place(predictor):
    task = predictor.task
    good = example(task, "the microsoft company")
    bad = [None, 7, ["a"], {"other": "a"}, example(task, "\ud800 surrogate"), example(task, "")]
    if task == "fill-mask":
        bad[-1] = ""
    records = predictor([record for item in bad for record in (good, item)] + [good])
    assert all("error" not in record for record in records[::2])
    assert all(near(record, records[0]) for record in records[::2])
    for record in records[1::2]:
        assert record.keys() == {"error"}
        assert record["error"]["type"] == "InputError"
        assert record["error"]["message"]
    assert records[1]["error"]["message"].endswith(
        (
            "is null, expected a string",
            "expected a mapping with question and context",
            "expected a mapping with prompt and choices",
        )
    )
    assert "not Unicode text: a lone surrogate at character 0" in records[9]["error"]["message"]


def test_an_empty_batch_gives_no_records(predictor):
    assert predictor([]) == []


def test_records_hold_json_types_and_the_counts(predictor):
    (record,) = predictor([example(predictor.task, "the microsoft company met Angela")])
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record.keys() > COUNTS
    assert record["num_windows"] == 1
    assert record["truncated"] is False


def test_a_long_document_is_windowed_truncated_or_refused(predictor):
    long = example(predictor.task, "the [MASK] company " * 300)
    options = [type(predictor.options)(on_long=on_long) for on_long in ("window", "truncate", "error")]
    windowed, truncated, refused = (predictor([long], option)[0] for option in options)
    assert windowed["num_windows"] > 1
    assert not windowed["truncated"]
    assert truncated["num_windows"] == 1
    assert truncated["truncated"]
    assert truncated["num_tokens"] < windowed["num_tokens"]
    assert 'on_long is "error"' in refused["error"]["message"]


def test_a_shorter_max_length_makes_more_windows(predictor):
    text = example(predictor.task, "the [MASK] company " * 30)
    records = [
        predictor([text], type(predictor.options)(max_length=length, window_overlap=4))[0] for length in (512, 64)
    ]
    assert records[0]["num_windows"] == 1
    assert records[1]["num_windows"] > 1
    assert records[0]["num_tokens"] == records[1]["num_tokens"]


def test_a_document_above_the_limit_is_refused_with_limit_and_value(predictor):
    options = type(predictor.options)(max_tokens_per_document=50)
    for text, value in (("a b " * 400, "1600 characters, more than 800|1607 char"), ("a b " * 100, "tokens")):
        (record,) = predictor([example(predictor.task, text)], options)
        assert record["error"]["type"] == "InputError"
        assert "max_tokens_per_document=50" in record["error"]["message"]
        assert any(part in record["error"]["message"] for part in value.split("|"))


def test_hostile_texts_never_harm_their_neighbours(predictor):
    task = predictor.task
    good = example(task, "the microsoft company")
    hostile = [example(task, text) for text in ("a\x00b\x00" * 50, "\u202e\u05e9\u05dc", "\U0001f642" * 99, "x" * 5000)]
    records = predictor([good, *hostile, good])
    assert not any("error" in record for record in records)
    assert near(records[0], records[-1])


def test_enormous_texts_are_prepared_or_refused_but_never_raise():
    predictor = tiny_predictor("token-classification")
    options = type(predictor.options)(max_tokens_per_document=100_000)
    prepared = predictor.preprocess(["a", "x" * 300_000, "caf\u00e9 \u4e16\u754c " * 5_000, "a"], options)
    assert "300000 tokens, more than max_tokens_per_document=100000" in prepared[1].message
    assert prepared[2].num_tokens > 30_000
    assert prepared[0].num_tokens == prepared[3].num_tokens == 1


def test_a_text_far_above_the_limit_is_refused_before_it_is_tokenized():
    class NeverAsked:
        def encode_batch(self, texts, **_):
            assert not texts
            return []

    predictor = tiny_predictor("token-classification")
    predictor.tokenizer = NeverAsked()
    options = type(predictor.options)(max_tokens_per_document=1000)
    (failed,) = predictor.preprocess(["x" * 16_001], options)
    assert "16001 characters, more than 16000" in failed.message


def test_a_text_the_tokenizer_cannot_take_fails_alone():
    predictor = tiny_predictor("token-classification")

    class Picky:
        cls_token_id = sep_token_id = unk_token_id = 5

        def encode_batch(self, texts, **options):
            if "bad" in texts:
                raise RuntimeError("no such word")
            return tokenizer.encode_batch(texts, **options)

    tokenizer, predictor.tokenizer = predictor.tokenizer, Picky()
    prepared = predictor.preprocess(["good", "bad", "good", "better"])
    assert [type(item) is Failed for item in prepared] == [False, True, False, False]
    assert prepared[1].message == "text cannot be tokenized: RuntimeError: no such word"


def test_rows_equal_what_the_tokenizer_makes_with_special_tokens():
    predictor = tiny_predictor("text-classification")
    single, pair = predictor.preprocess(["the company", {"text": "the company", "text_pair": "met Angela"}])
    for item, encoding in (
        (single, predictor.tokenizer.encode_batch("the company")),
        (pair, predictor.tokenizer.encode_batch([("the company", "met Angela")])[0]),
    ):
        (row,) = item.rows
        assert row.ids.tolist() == encoding.ids
        assert row.second == (encoding.sequence_ids.index(1) if 1 in encoding.sequence_ids else None)


def test_prepared_examples_survive_pickling(predictor):
    options = type(predictor.options)()
    examples = [example(predictor.task, "the microsoft company"), None]
    prepared = pickle.loads(pickle.dumps(predictor.preprocess(examples, options)))
    records = predictor.postprocess(prepared, predictor.forward(prepared))
    assert near(records, predictor(examples))
    assert isinstance(prepared[1], Failed)


def test_text_is_prepared_and_decoded_without_weights(predictor):
    light = type(predictor)(predictor.tokenizer, predictor.config)
    examples = [example(predictor.task, "the microsoft company"), None]
    prepared = light.preprocess(examples)
    assert near(light.postprocess(prepared, predictor.forward(prepared)), predictor(examples))


def test_options_beyond_the_model_are_error_records(predictor):
    options = type(predictor.options)(max_length=513)
    (record,) = predictor([example(predictor.task, "a")], options)
    assert "max_length is 513, but the model reads at most 512" in record["error"]["message"]


def test_outputs_that_are_not_finite_become_error_records():
    predictor = tiny_predictor("text-classification")
    predictor.model.classifier.out_proj.bias.data[1] = float("nan")
    (record,) = predictor(["the company"])
    assert record["error"]["type"] == "NonFiniteOutput"


def test_outputs_of_other_examples_are_refused():
    predictor = tiny_predictor("text-classification")
    prepared = predictor.preprocess(["a", "b"])
    with pytest.raises(ValueError, match="shorter"):
        predictor.postprocess(prepared, predictor.forward(prepared)[:1])
    with pytest.raises(ValueError, match="an output is missing"):
        predictor.postprocess(prepared, [None, None])


def test_a_call_leaves_the_model_and_the_grad_mode_alone(predictor):
    import torch

    before = {name: value.clone() for name, value in predictor.model.state_dict().items()}
    predictor([example(predictor.task, "the company")])
    assert torch.is_grad_enabled()
    assert all(torch.equal(value, before[name]) for name, value in predictor.model.state_dict().items())


@given(lengths=st.lists(st.integers(1, 50), max_size=40), budget=st.integers(1, 100))
def test_micro_batches_hold_every_row_once_within_the_budget(lengths, budget):
    batches = micro_batches(lengths, budget)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or sum(lengths[index] for index in batch) <= budget
    flat = [lengths[index] for batch in batches for index in batch]
    assert flat == sorted(flat, reverse=True)


@pytest.mark.parametrize("task", TASKS)
def test_options_are_hashable_and_refuse_what_is_out_of_range(task):
    kind = type(tiny_predictor(task).options)
    assert hash(kind()) == hash(kind())
    with pytest.raises(InputError, match="on_long"):
        kind(on_long="cut")
