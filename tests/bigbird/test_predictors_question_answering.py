"""question-answering: the best span of all windows, with its characters."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_predictors import tiny_predictor

from bigbird.predictors import QuestionAnsweringOptions
from bigbird.predictors.question_answering import best_spans
from bigbird.predictors.windows import cut

EXAMPLE = {"question": "who met Angela?", "context": "  the microsoft company met\n Angela Merkel in Z\u00fcrich "}


@pytest.fixture(scope="module")
def predictor():
    return tiny_predictor("question-answering")


def by_brute_force(windows, logits, options):
    """Probability and tokens of the best spans, all pairs of a start and an end tried."""
    total = sum(np.exp(array[:, 0].astype(float)).sum() * np.exp(array[:, 1].astype(float)).sum() for array in logits)
    spans = {}
    for window, array in zip(windows, logits, strict=True):
        for first in range(len(window)):
            for last in range(first, min(len(window), first + options.max_answer_len)):
                place = (window.start + first, window.start + last)
                spans[place] = max(float(array[1 + first, 0]) + float(array[1 + last, 1]), spans.get(place, -np.inf))
    best = sorted(spans, key=spans.get, reverse=True)[: options.top_k]
    return [(pytest.approx(np.exp(spans[place]) / total, rel=1e-6), *place) for place in best]


@given(num_tokens=st.integers(1, 40), room=st.integers(4, 20), length=st.integers(1, 8), seed=st.integers(0, 10**6),
       top_k=st.integers(1, 9))  # fmt: skip
@settings(max_examples=50, deadline=None)
def test_the_best_spans_are_the_best_of_all_pairs_in_all_windows(num_tokens, room, length, seed, top_k):
    windows = cut(num_tokens, room, room // 2)
    generator = np.random.default_rng(seed)
    logits = [generator.normal(size=(1 + len(window), 2)).astype(np.float32) for window in windows]
    options = QuestionAnsweringOptions(max_answer_len=length, top_k=top_k)
    assert best_spans(windows, logits, options) == by_brute_force(windows, logits, options)


def test_the_score_of_one_window_is_the_product_of_the_models_probabilities(predictor):
    (record,) = predictor([EXAMPLE], QuestionAnsweringOptions(max_answer_len=1000, align_to_words=False))
    encoding = predictor.tokenizer.encode_batch([(EXAMPLE["question"], EXAMPLE["context"])])[0]
    with torch.inference_mode():
        output = predictor.model(torch.tensor([encoding.ids]), token_type_ids=torch.tensor([encoding.token_type_ids]))
    # As in transformers: the context and [CLS] share the probability, the answer lies in the context.
    in_context = np.array([part == 1 for part in encoding.sequence_ids])
    counted = in_context.copy()
    counted[0] = True
    start, end = (np.where(counted, np.exp(x[0].numpy()), 0) for x in (output.start_logits, output.end_logits))
    products = np.triu(np.outer(start / start.sum() * in_context, end / end.sum() * in_context))
    first, last = np.unravel_index(products.argmax(), products.shape)
    covered = EXAMPLE["context"][encoding.offsets[first][0] : encoding.offsets[last][1]]
    assert record["score"] == pytest.approx(products.max(), abs=1e-5)
    assert record["answer"] == covered.strip()


def test_the_answer_is_the_text_between_its_offsets_without_white_space_around(predictor):
    (item,) = predictor.preprocess([EXAMPLE])
    for first in range(len(item.context)):
        for last in range(first, len(item.context)):
            logits = np.zeros((1 + len(item.context), 2), dtype=np.float32)
            logits[1 + first, 0] = logits[1 + last, 1] = 20
            (record,) = predictor.postprocess(
                [item], [[logits]], QuestionAnsweringOptions(max_answer_len=99, align_to_words=False)
            )
            assert record["answer"] == EXAMPLE["context"][record["start"] : record["end"]]
            assert record["answer"] == record["answer"].strip() or not record["answer"].strip()
            assert record["score"] > 0.9


def test_an_answer_in_a_later_window_is_found_at_its_place_in_the_document(predictor):
    context = "the microsoft company " * 400
    (item,) = predictor.preprocess([{"question": "who?", "context": context}])
    assert item.num_windows > 2
    logits = [np.zeros((1 + len(window), 2), dtype=np.float32) for window in item.windows]
    logits[-1][-5, 0] = logits[-1][-3, 1] = 9
    (record,) = predictor.postprocess([item], [logits], QuestionAnsweringOptions(align_to_words=False))
    tokens = item.context.offsets[item.num_tokens - len(item.rows[0].ids[1 : item.rows[0].second - 1]) - 5 :]
    assert record["answer"] == context[tokens[0][0] : tokens[2][1]].strip()
    assert record["start"] > len(context) - 60


def test_no_answer_is_given_only_where_it_is_allowed_and_likelier_in_every_window(predictor):
    windows = cut(30, 20, 4)
    logits = [np.zeros((1 + len(window), 2), dtype=np.float32) for window in windows]
    for array in logits:
        array[0] = 5
    assert best_spans(windows, logits, QuestionAnsweringOptions())[0].first >= 0
    allowed = QuestionAnsweringOptions(allow_no_answer=True)
    assert best_spans(windows, logits, allowed)[0][1:] == (-1, -1)
    logits[1][7] = 6
    assert best_spans(windows, logits, allowed)[0][1:] == (windows[1].start + 6, windows[1].start + 6)
    (item,) = predictor.preprocess([EXAMPLE])
    only_cls = np.zeros((1 + len(item.context), 2), dtype=np.float32)
    only_cls[0] = 9
    (record,) = predictor.postprocess([item], [[only_cls]], allowed)
    assert (record["answer"], record["start"], record["end"]) == ("", 0, 0)
    assert record["score"] > 0.9


def test_answers_never_part_a_word_unless_they_may(predictor):
    context = "parting strange_words: caf\u00e9"
    (item,) = predictor.preprocess([{"question": "who?", "context": context}])
    words = [
        match.span() for match in re.finditer(r" ?[a-z\u00e9]+| ?[^\s\w]+|_+", context)
    ]  # as the tokenizer parts them
    parted = 0
    for token, (start, end) in enumerate(item.context.offsets.tolist()):
        logits = np.zeros((1 + len(item.context), 2), dtype=np.float32)
        logits[1 + token] = 20
        whole, bare = (
            predictor.postprocess([item], [[logits]], QuestionAnsweringOptions(align_to_words=align))[0]
            for align in (True, False)
        )
        (word,) = [word for word in words if word[0] <= start and end <= word[1]]
        assert whole["answer"] == context[slice(*word)].strip() == context[whole["start"] : whole["end"]]
        assert bare["answer"].strip() == context[start:end].strip()
        assert whole["score"] == bare["score"]
        parted += whole["answer"] != bare["answer"]
    assert parted > 3


def test_several_answers_are_listed_the_best_first_and_no_answer_among_them(predictor):
    record = predictor(**EXAMPLE, top_k=4)
    assert len(record["answers"]) == 4
    assert record["answers"][0].items() <= record.items()
    scores = [answer["score"] for answer in record["answers"]]
    assert scores == sorted(scores, reverse=True)
    assert "answers" not in predictor(**EXAMPLE)
    every = predictor(question="who?", context="Angela", top_k=1000, allow_no_answer=True)["answers"]
    assert [(answer["start"], answer["end"]) for answer in every if not answer["answer"]] == [(0, 0)]
    assert sum(answer["score"] for answer in every) < 1


def test_forward_gives_logits_of_cls_and_the_context_alone(predictor):
    prepared = predictor.preprocess([EXAMPLE])
    ((logits,),) = predictor.forward(prepared)
    assert logits.shape == (1 + len(prepared[0].context), 2)
    encoding = predictor.tokenizer.encode_batch([(EXAMPLE["question"], EXAMPLE["context"])])[0]
    with torch.inference_mode():
        start = predictor.model(
            torch.tensor([encoding.ids]), token_type_ids=torch.tensor([encoding.token_type_ids])
        ).start_logits[0]
    kept = [0, *(at for at, part in enumerate(encoding.sequence_ids) if part == 1)]
    assert logits[:, 0].tolist() == pytest.approx(start[kept].tolist(), abs=1e-5)


def test_a_question_that_is_too_long_is_an_error_record_never_cut(predictor):
    long = {**EXAMPLE, "question": "the microsoft company " * 400}
    (record,) = predictor([long])
    assert "context: the other parts and special tokens leave no room" in record["error"]["message"]
    (record,) = predictor([EXAMPLE], QuestionAnsweringOptions(max_question_len=2))
    assert "more than max_question_len=2" in record["error"]["message"]
    (record,) = predictor([{"question": "who?"}])
    assert record["error"]["message"] == "the example lacks context, expected question and context"
