"""gRPC through Serve's own proxy, with a client of grpcio: what HTTP answers, and its errors as status codes."""

import grpc
import pytest
from endpoint_inputs import INPUTS, TEXT, close, post
from google.protobuf.json_format import MessageToDict, ParseDict
from serving_cluster import SERVED

from serving.rpc import bigbird_pb2 as messages
from serving.rpc.bigbird_pb2_grpc import BigBirdStub

pytestmark = SERVED

TASK = "question-answering"


@pytest.fixture
def stub(instance):
    with grpc.insecure_channel(f"127.0.0.1:{instance.grpc_port}") as channel:
        yield BigBirdStub(channel)


def score(stub, **fields):
    request = ParseDict({"task": TASK, "inputs": INPUTS[TASK], **fields}, messages.ScoreRequest())
    return MessageToDict(stub.Score(request, timeout=90))["answers"]


def test_every_call_answers_what_http_does(url, stub):
    parameters = {"max_answer_len": 5}
    body = {"inputs": INPUTS[TASK], "parameters": parameters}
    assert close(post(url, f"/v1/{TASK}", body).json(), score(stub, parameters=parameters))
    embedded = stub.Embed(messages.EmbedRequest(inputs=[TEXT]), timeout=90).embeddings
    assert close(
        post(url, "/v1/feature-extraction", {"inputs": [TEXT]}).json(), [list(item.values) for item in embedded]
    )
    request = messages.GenerateRequest(prompt="Paris", max_tokens=5, temperature=0.0)
    replies = list(stub.Generate(request, timeout=90))
    body = {"model": "text-generation", "prompt": "Paris", "max_tokens": 5, "temperature": 0}
    (choice,) = post(url, "/v1/completions", body).json()["choices"]
    assert "".join(reply.text for reply in replies) == choice["text"]
    assert replies[-1].finish_reason == choice["finish_reason"]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"model": "third"}, grpc.StatusCode.NOT_FOUND),
        ({"task": "summarization"}, grpc.StatusCode.NOT_FOUND),
        ({"parameters": {"max_answer": 1}}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"inputs": [{"question": "What?", "context": "x" * 400_000}]}, grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
)
def test_a_refusal_has_its_status_code_and_type(stub, fields, code):
    with pytest.raises(grpc.RpcError) as caught:
        score(stub, **fields)
    assert caught.value.code() == code, caught.value
    assert dict(caught.value.trailing_metadata())["error-type"]
