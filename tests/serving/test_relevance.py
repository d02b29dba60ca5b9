"""serving.replicas.relevance and token_lists, of a replica without Serve around it: what is made of records."""

import asyncio
import math

import numpy as np
import pytest

from bigbird import BigBirdForSequenceClassification, BigBirdModel, load_predictor
from serving.settings import HeadArguments

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")  # as Serve is imported

DOCUMENT = "Paris is the capital of France; Zürich lies on a lake. " * 40
QUERY = "Which capital?"
ASKED = {"options": {}, "timeout_s": 60.0, "raw_scores": False, "whole": False, "max_document_tokens": None}


def answers(*calls):
    """What the calls give, one after the other: a replica's queues belong to one event loop."""

    async def main():
        return [await call for call in calls]

    return asyncio.run(main())


@pytest.fixture(scope="module")
def make(tiny_checkpoint):
    from serving.replicas.scoring import ScoringReplica

    def replica(task, head, **config):
        checkpoint = str(tiny_checkpoint(head, **config))
        return ScoringReplica(task, HeadArguments(task=task, checkpoint=checkpoint)), load_predictor(task, checkpoint)

    return replica


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_length": 3, "window_overlap": 0, "return_windows": True}, "windows or more, the limit is 10000"),
        ({"pooling": "none"}, "tokens or more, an answer has room for 131072"),
    ],
)
def test_an_answer_of_too_many_windows_or_vectors_is_refused_before_the_model_runs(make, monkeypatch, options, said):
    replica, _ = make("feature-extraction", BigBirdModel)
    monkeypatch.setattr(replica._predictor, "forward", None)
    request = {"inputs": [DOCUMENT * 10] * 20, "options": options, "timeout_s": 60.0}
    failure = answers(replica.score(request))[0]["failure"]
    assert failure["kind"] == "invalid_input"
    assert said in failure["message"]


def test_a_cross_encoder_scores_a_document_by_its_best_window_and_tells_its_place(make):
    replica, predictor = make("text-classification", BigBirdForSequenceClassification, num_labels=1)
    documents = ["a lake", DOCUMENT]
    (outcome,) = answers(replica.relevance({**ASKED, "queries": [QUERY], "documents": documents}))
    for document, result in zip(documents, outcome["results"], strict=True):
        (record,) = predictor([{"text": QUERY, "text_pair": document}], return_windows=True)
        best = max(record["windows"], key=lambda window: window["labels"][0]["score"])
        assert result["score"] == pytest.approx(best["labels"][0]["score"], abs=1e-5)
        if document is DOCUMENT:
            assert (result["start"], result["end"]) == (best["start"], best["end"])
            assert record["num_windows"] > 1
    assert (outcome["results"][0]["start"], outcome["results"][0]["end"]) == (0, len("a lake")), "not of the query"


def test_a_query_that_is_longer_than_the_document_leaves_the_document_whole(make):
    replica, _ = make("text-classification", BigBirdForSequenceClassification, num_labels=1)
    asked = {**ASKED, "queries": [DOCUMENT], "documents": ["a lake"]}
    outcome, logit = answers(replica.relevance(asked), replica.relevance({**asked, "raw_scores": True}))
    (result,) = outcome["results"]
    assert outcome["records"][0]["num_windows"] > 1
    assert (result["start"], result["end"]) == (0, len("a lake"))
    assert 1 / (1 + math.exp(-logit["results"][0]["score"])) == pytest.approx(result["score"], abs=1e-5)


def test_vectors_score_by_the_best_window_or_by_the_whole_and_read_no_more_than_asked(make):
    replica, predictor = make("feature-extraction", BigBirdModel)
    query, record = predictor([QUERY, DOCUMENT], normalize=True, return_windows=True)
    cosines = [float(np.dot(window["embedding"], query["embedding"])) for window in record["windows"]]
    best = record["windows"][int(np.argmax(cosines))]
    asked = {**ASKED, "queries": [QUERY], "documents": [DOCUMENT]}
    by_window, by_all, outcome = answers(
        replica.relevance(asked),
        replica.relevance({**asked, "whole": True}),
        replica.relevance({**asked, "max_document_tokens": 9}),
    )
    (result,) = by_window["results"]
    assert result["score"] == pytest.approx(max(cosines), abs=1e-5)
    assert (result["start"], result["end"]) == (best["start"], best["end"])
    (whole,) = by_all["results"]
    assert whole["score"] == pytest.approx(float(np.dot(record["embedding"], query["embedding"])), abs=1e-5)
    assert [facts["num_tokens"] for facts in outcome["records"]] == [query["num_tokens"], 9]
    (cut,) = outcome["results"]
    assert DOCUMENT[: cut["end"]] == predictor.tokenizer.decode(
        predictor.tokenizer.encode(DOCUMENT, add_special_tokens=False)[:9]
    )


def test_tokens_of_texts_have_their_places_and_decode_to_the_text_again(make):
    replica, predictor = make("feature-extraction", BigBirdModel)
    text = "Zürich lies on a lake"
    (tokens,) = asyncio.run(replica.tokenize({"inputs": [text], "add_special_tokens": True}))["tokens"]
    assert [token["id"] for token in tokens] == predictor.tokenizer.encode(text)
    assert [token["special"] for token in tokens] == [True, *[False] * (len(tokens) - 2), True]
    assert all(token["text"] == text[token["start"] : token["stop"]] for token in tokens[1:-1])
    decode = {"ids": [[token["id"] for token in tokens]], "skip_special_tokens": True}
    assert asyncio.run(replica.decode(decode))["texts"] == [text]
    failure = asyncio.run(replica.decode({"ids": [[5], [10**6]], "skip_special_tokens": True}))["failure"]
    assert failure["param"] == "ids.1"
