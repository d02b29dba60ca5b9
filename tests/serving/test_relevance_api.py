"""Reranking, scoring, and text-embeddings-inference's endpoints below Ray: bodies, heads and errors."""

import pytest
from error_bodies import error_in
from serving_fakes import FACTS, Server, assert_error

from serving.errors import ServingError

DOCUMENTS = ["one", {"text": "two"}, "three"]


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_documents_come_back_the_best_first_with_their_best_window_and_the_model_that_scored(server, path):
    body = {"model": "feature-extraction", "query": "q", "documents": DOCUMENTS, "top_n": 2, "return_documents": True}
    answer = server.post(path, body).json()
    assert [(result["index"], result["document"]["text"]) for result in answer["results"]] == [(2, "three"), (1, "two")]
    assert answer["results"][0]["window"] == {"start": 0, "end": 1}
    assert answer["model"] == "feature-extraction"
    assert answer["usage"]["total_tokens"] == 3 * FACTS["num_tokens"]
    plain = server.post(path, {"query": "q", "documents": DOCUMENTS}).json()
    assert len(plain["results"]) == 3
    assert "document" not in plain["results"][0]


def test_a_classifier_of_one_label_scores_pairs_and_any_other_leaves_it_to_the_vectors(server):
    assert server.post("/rerank", {"query": "q", "documents": ["a"]}).json()["model"] == "feature-extraction"
    server = Server()
    server.heads["text-classification"].labels = ("relevant",)
    assert server.post("/rerank", {"query": "q", "documents": ["a"]}).json()["model"] == "text-classification"
    assert server.post("/score", {"text_1": "q", "text_2": ["a"]}).json()["model"] == "text-classification"
    asked = {"model": "feature-extraction", "query": "q", "documents": ["a"]}
    assert server.post("/rerank", asked).json()["model"] == "feature-extraction"


@pytest.mark.parametrize(
    ("path", "body", "needed"),
    [
        ("/rerank", {"query": "q", "documents": ["a"]}, "a text-classification head with one label or a feature"),
        ("/score", {"text_1": "q", "text_2": "a"}, "a text-classification head with one label or a feature"),
        ("/embed", {"inputs": "a"}, "a feature-extraction head"),
        ("/embed_all", {"inputs": "a"}, "a feature-extraction head"),
        ("/predict", {"inputs": "a"}, "a text-classification head"),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": ["b"]}}, "a feature-extraction head"),
        ("/v1/token-classification", {"inputs": "a"}, "no token-classification head here"),
        ("/v1/text-generation", {"inputs": "a"}, "no text-generation head here"),
    ],
)
def test_a_missing_head_is_named_with_those_that_are_here(path, body, needed):
    response = Server(["fill-mask"]).post(path, body)
    assert_error(response, "unknown_head")
    message = error_in(response.json())["message"]
    assert needed in message
    assert message.endswith(("here are fill-mask", "the heads are fill-mask"))


def test_a_model_that_cannot_score_is_refused(server):
    for model, said in (("text-classification", "several labels"), ("fill-mask", "for fill-mask"), ("gpt", "no model")):
        response = server.post("/rerank", {"model": model, "query": "q", "documents": ["a"]})
        assert_error(response, "unknown_head", "model")
        assert said in error_in(response.json())["message"]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/rerank", {"query": "q", "documents": []}, "documents"),
        ("/rerank", {"query": "", "documents": ["a"]}, "query"),
        ("/rerank", {"documents": ["a"]}, "query"),
        ("/rerank", {"query": "q", "documents": ["a", {"title": "b"}]}, "documents.1.text"),
        ("/rerank", {"query": "q", "documents": ["a"], "max_chunks_per_doc": 2}, "max_chunks_per_doc"),
        ("/rerank", {"query": "q", "documents": ["a"], "rank_fields": ["title"]}, "rank_fields"),
        ("/rerank", {"query": "q", "texts": ["a"], "truncation_direction": "left"}, "truncation_direction"),
        ("/rerank", {"query": "q", "texts": ["a"], "top_n": 2}, "top_n"),
        ("/rerank", {"query": "q" * 60, "documents": ["a"] * 20}, "documents"),
        ("/score", {"text_1": ["a", "b"], "text_2": ["c"]}, None),
        ("/score", {"text_1": "a", "documents": ["c"]}, None),
        ("/embed", {"inputs": "a", "prompt_name": "query"}, "prompt_name"),
        ("/embed", {"inputs": "a", "dimensions": 3}, "dimensions"),
        ("/predict", {"inputs": ["a", "b", "c"]}, "inputs"),
        ("/decode", {"ids": []}, "ids"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(path, body, param):
    server = Server(max_characters_per_request=1000)
    assert_error(server.post(path, body), "invalid_input", param)


def test_an_input_at_fault_is_named_by_the_client_s_own_field(server):
    body = {"query": "q", "documents": ["a", ""]}
    vectors = server.heads["feature-extraction"]
    vectors.failure = ServingError("invalid_input", "inputs.2: text is empty", param="inputs.2")
    assert error_in(server.post("/rerank", body).json())["message"] == "documents.1: is empty"
    vectors.failure = ServingError("invalid_input", "inputs.0: text is empty", param="inputs.0")
    assert_error(server.post("/rerank", body), "invalid_input", "query")


def test_text_embeddings_inference_s_rerank_is_a_list_and_score_has_vllm_s_shape(server):
    answer = server.post("/rerank", {"query": "q", "texts": ["a", "b"], "return_text": True, "truncate": True}).json()
    assert [(item["index"], item["text"]) for item in answer] == [(1, "b"), (0, "a")]
    assert server.heads["feature-extraction"].calls[-1][1]["options"] == {"on_long": "truncate"}
    for names in (("text_1", "text_2"), ("queries", "documents")):
        scores = server.post("/score", dict(zip(names, ("q", ["a", "b"]), strict=True))).json()
        assert [(item["index"], item["object"]) for item in scores["data"]] == [(0, "score"), (1, "score")]
    body = {"inputs": {"source_sentence": "q", "sentences": ["a", "b"]}}
    assert server.post("/v1/sentence-similarity", body).json() == pytest.approx([0.1, 0.2])
    assert server.heads["feature-extraction"].calls[-1][1]["whole"] is True


def test_text_embeddings_inference_s_bodies_become_the_library_s_options(server):
    vectors, labels = server.heads["feature-extraction"], server.heads["text-classification"]
    assert server.post("/embed", {"inputs": ["a", "b"]}).json() == [[0.25, -1.0]] * 2
    assert vectors.calls[-1][1]["options"] == {"normalize": True}, "as text-embeddings-inference has it"
    server.post("/embed", {"inputs": [1, 2], "normalize": False, "truncate": True, "truncation_direction": "Left"})
    assert vectors.calls[-1][1]["inputs"] == [[1, 2]]
    assert vectors.calls[-1][1]["options"] == {"normalize": False, "on_long": "truncate", "truncation_side": "left"}
    vectors.record = {"token_embeddings": [[1.0], [2.0]]}
    assert server.post("/embed_all", {"inputs": "a"}).json() == [[[1.0], [2.0]]]
    assert vectors.calls[-1][1]["options"] == {"pooling": "none"}
    assert server.post("/predict", {"inputs": "a", "raw_scores": True}).json()[0] == {"label": "good", "score": 0.8}
    assert labels.calls[-1][1]["options"] == {"function_to_apply": "none"}
    assert len(server.post("/predict", {"inputs": [["a", "b"], ["c"]]}).json()) == 2
    assert labels.calls[-1][1]["inputs"] == [{"text": "a", "text_pair": "b"}, "c"]
    assert not isinstance(server.post("/predict", {"inputs": ["a", "b"]}).json()[0], list), "one pair"


TOO_LONG = 'inputs.1: text has 9 tokens, more than the 8 one window holds, and on_long is "error"'


@pytest.mark.parametrize(
    ("path", "body", "said", "answered"),
    [
        (
            "/v1/question-answering",
            {"inputs": {"question": "q", "context": "c"}, "parameters": {"max_seq_len": 9, "doc_stride": 7}},
            "inputs.0: window_overlap is 7, more than half of max_length",
            "inputs.0: doc_stride is 7, more than half of max_length",
        ),
        (
            "/v1/token-classification",
            {"inputs": "a", "parameters": {"window_overlap": 7}},
            "inputs.0: window_overlap is 7",
            "inputs.0: window_overlap is 7",
        ),
        (
            "/v1/feature-extraction",
            {"inputs": ["a", "b"], "truncate": False},
            TOO_LONG,
            TOO_LONG.replace('on_long is "error"', "truncate is false"),
        ),
        ("/v1/feature-extraction", {"inputs": ["a", "b"], "parameters": {"on_long": "error"}}, TOO_LONG, TOO_LONG),
        (
            "/embed",
            {"inputs": ["a", "b"], "truncate": False},
            TOO_LONG,
            TOO_LONG.replace('on_long is "error"', "truncate is false"),
        ),
        (
            "/rerank",
            {"query": "q", "texts": ["b"], "truncate": False},
            TOO_LONG,
            "texts.0: has 9 tokens, more than the 8 one window holds, and truncate is false",
        ),
    ],
)
def test_a_refusal_speaks_of_parameters_by_the_names_that_the_client_used(path, body, said, answered):
    server = Server(("feature-extraction", "question-answering", "token-classification"))
    for head in server.heads.values():
        head.failure = ServingError("invalid_input", said, param=said.partition(":")[0])
    assert server.post(path, body).json()["error"] == answered
