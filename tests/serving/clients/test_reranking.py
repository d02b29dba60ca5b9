"""Reranking, scoring and text-embeddings-inference's endpoints, with the clients people use, against a real server."""

import math

import httpx
import numpy as np
import pytest
from endpoint_inputs import LONG, TEXT, close, post
from huggingface_hub import InferenceClient

from bigbird import BigBirdTokenizer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")  # as Serve is imported
QUERY = "Which capital?"
DOCUMENTS = [TEXT, LONG, "東京"]


@pytest.fixture
def ranked(library):
    """By the library's own vectors: cosine and characters of each document's best window, the best document first."""
    (query,) = library("feature-extraction")([QUERY], normalize=True)
    found = []
    records = library("feature-extraction")(DOCUMENTS, normalize=True, return_windows=True)
    for index, record in enumerate(records):
        cosines = [float(np.dot(window["embedding"], query["embedding"])) for window in record["windows"]]
        best = record["windows"][int(np.argmax(cosines))]
        found.append((index, max(cosines), best["start"], best["end"]))
    return sorted(found, key=lambda one: -one[1])


def test_litellm_s_cohere_client_reranks_documents_of_any_length_as_the_library_s_vectors_do(url, ranked):
    litellm = pytest.importorskip("litellm", reason="litellm is not installed")
    answer = litellm.rerank(
        model="cohere/feature-extraction", query=QUERY, documents=DOCUMENTS, top_n=2, return_documents=True,
        api_base=url, api_key="none", num_retries=0,
    )  # fmt: skip
    assert [result["index"] for result in answer.results] == [index for index, *_ in ranked[:2]]
    assert close([result["relevance_score"] for result in answer.results], [score for _, score, *_ in ranked[:2]])
    assert answer.results[0]["document"]["text"] == DOCUMENTS[ranked[0][0]]


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank", "/v1/models/feature-extraction/rerank"])
def test_rerank_tells_the_best_window_of_each_document_and_the_model(url, ranked, path):
    answer = post(url, path, {"model": "feature-extraction", "query": QUERY, "documents": DOCUMENTS}).json()
    found = [(r["index"], r["relevance_score"], r["window"]["start"], r["window"]["end"]) for r in answer["results"]]
    assert close(found, ranked)
    assert answer["model"] == "feature-extraction"


def test_a_cross_encoder_is_taken_where_one_is_served(url, library):
    """Of one label; the server's other classifier has three and is passed over."""
    answer = post(url, "/rerank", {"query": QUERY, "documents": DOCUMENTS}).json()
    assert answer["model"] == "reranker"
    wanted = {}
    for index, document in enumerate(DOCUMENTS):
        (record,) = library("reranker")([{"text": QUERY, "text_pair": document}], return_windows=True)
        wanted[index] = max(window["labels"][0]["score"] for window in record["windows"])
    found = {result["index"]: result["relevance_score"] for result in answer["results"]}
    assert close(found, wanted)
    scores = post(url, "/score", {"model": "reranker", "text_1": QUERY, "text_2": DOCUMENTS}).json()
    assert close([item["score"] for item in scores["data"]], [wanted[index] for index in range(3)])
    logits = post(url, "/v1/models/reranker/rerank", {"query": QUERY, "texts": DOCUMENTS, "raw_scores": True}).json()
    sigmoids = {item["index"]: 1 / (1 + math.exp(-item["score"])) for item in logits}
    assert close(sigmoids, wanted)


def test_text_embeddings_inference_s_calls_give_the_library_s_records(url, library, checkpoints):
    vectors = library("feature-extraction")
    unit = [record["embedding"] for record in vectors([TEXT, LONG], normalize=True)]
    assert close(post(url, "/embed", {"inputs": [TEXT, LONG]}).json(), unit)
    plain = [record["embedding"][:5] for record in vectors([TEXT])]
    assert close(post(url, "/embed", {"inputs": TEXT, "normalize": False, "dimensions": 5}).json(), plain)
    shortened = np.array(unit[0][:5]) / np.linalg.norm(unit[0][:5])
    assert close(post(url, "/embed", {"inputs": TEXT, "dimensions": 5}).json(), [shortened.tolist()])
    tokens = [record["token_embeddings"] for record in vectors([TEXT], pooling="none")]
    assert close(post(url, "/embed_all", {"inputs": TEXT}).json(), tokens)
    labels = [record["labels"] for record in library("text-classification")([TEXT, {"text": TEXT, "text_pair": "a"}])]
    predict = {"model": "text-classification", "inputs": [[TEXT], [TEXT, "a"]]}
    assert close(post(url, "/predict", predict).json(), labels)
    tokenizer = BigBirdTokenizer.from_pretrained(checkpoints["feature-extraction"])
    (found,) = post(url, "/tokenize", {"inputs": TEXT}).json()
    assert [token["id"] for token in found] == tokenizer.encode(TEXT)
    assert post(url, "/decode", {"ids": [token["id"] for token in found]}).json() == [TEXT]
    by_generation = post(url, "/tokenize", {"inputs": TEXT, "model": "text-generation"})
    assert by_generation.status_code == 200


def test_sentence_similarity_is_the_cosine_of_the_library_s_vectors(url, library):
    client = InferenceClient(model=f"{url}/v1/sentence-similarity", timeout=90)
    query, *others = (record["embedding"] for record in library("feature-extraction")([QUERY, *DOCUMENTS]))
    cosines = [float(np.dot(query, other)) / (math.hypot(*query) * math.hypot(*other)) for other in others]
    assert close(client.sentence_similarity(QUERY, DOCUMENTS), cosines)


def test_an_endpoint_says_how_it_is_where_its_client_asks(url):
    client = InferenceClient(provider="hf-inference", model=url, timeout=90)
    assert client.health_check()
    assert {head["task"] for head in client.get_endpoint_info()["heads"]} >= {"fill-mask", "feature-extraction"}
    one = InferenceClient(provider="hf-inference", model=f"{url}/v1/fill-mask", timeout=90)
    assert one.health_check()
    assert one.get_endpoint_info()["task"] == "fill-mask"
    assert httpx.get(f"{url}/v1/nothing/health", timeout=90).status_code == 404
