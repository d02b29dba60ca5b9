"""serving.rpc below Ray: calls are answered as HTTP answers them, and the generated code is that of the .proto."""

import asyncio
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from serving_fakes import INPUTS, PARAMETERS, RECORDS, Server

from serving.errors import ServingError
from serving.http.edge.auth import ApiKeys
from serving.rpc import bigbird_pb2 as messages
from serving.rpc.service import Service

ROOT = Path(__file__).parents[2]


class FakeContext:
    def __init__(self, **metadata: str) -> None:
        self.metadata = [(name.replace("_", "-"), value) for name, value in metadata.items()]
        self.code: grpc.StatusCode | None = None
        self.details = ""
        self.trailing: dict[str, str] = {}

    def invocation_metadata(self) -> list[tuple[str, str]]:
        return self.metadata

    def set_code(self, code: grpc.StatusCode) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        self.details = details

    def set_trailing_metadata(self, metadata: list[tuple[str, str]]) -> None:
        self.trailing = dict(metadata)


def score(server: Server, task: str, *inputs, context: FakeContext, model: str | None = None, **parameters):
    request = messages.ScoreRequest(task=task, model=model)
    ParseDict({"inputs": list(inputs), "parameters": parameters}, request)
    reply = asyncio.run(Service(server.app).score(request, context))
    return MessageToDict(reply).get("answers")


@pytest.mark.parametrize("task", RECORDS)
def test_a_score_is_what_http_answers_to_a_list(task):
    server, context = Server(), FakeContext(x_request_id="mine-1", x_request_timeout_seconds="5")
    inputs = [INPUTS[task]] * 2
    parameters = PARAMETERS.get(task, {})
    answers = score(server, task, *inputs, context=context, **parameters)
    assert answers == server.post(f"/v1/{task}", {"inputs": inputs, "parameters": parameters}).json()
    assert context.code is None
    assert server.heads[task].calls[0][1]["request_id"] == "mine-1"
    assert server.heads[task].calls[0][2] == 5.0
    assert server.metrics.requests[0] == (task, 200, None)


def test_whole_numbers_and_lists_of_parameters_stay_what_they_are():
    server = Server()
    context = FakeContext()
    score(server, "token-classification", "a", context=context, ignore_labels=["O"], window_overlap=3)
    options = server.heads["token-classification"].calls[-1][1]["options"]
    assert options == {"ignore_labels": ("O",), "window_overlap": 3}


@pytest.mark.parametrize(
    ("task", "model", "said", "code"),
    [
        ("text-generation", None, "no task 'text-generation'; they are fill-mask, ", grpc.StatusCode.NOT_FOUND),
        ("models/x/fill-mask", None, "no task 'models/x/fill-mask'", grpc.StatusCode.NOT_FOUND),
        ("fill-mask", "third", "no model 'third'", grpc.StatusCode.NOT_FOUND),
    ],
)
def test_what_is_not_here_is_refused_with_http_s_words(task, model, said, code):
    context = FakeContext()
    assert score(Server(), task, "a [MASK]", context=context, model=model) is None
    assert (said in context.details, context.code) == (True, code)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("invalid_input", "INVALID_ARGUMENT"),
        ("overloaded", "RESOURCE_EXHAUSTED"),
        ("head_unavailable", "UNAVAILABLE"),
        ("deadline_exceeded", "DEADLINE_EXCEEDED"),
        ("internal", "INTERNAL"),
    ],
)
def test_what_a_head_says_becomes_a_status_code(kind, code):
    server, context = Server(), FakeContext()
    server.heads["fill-mask"].failure = ServingError(kind, "because", retry_after_s=2.2)
    assert score(server, "fill-mask", "a", context=context) is None
    assert (context.code, context.details) == (grpc.StatusCode[code], "because")
    assert context.trailing == {"error-type": kind, "retry-after": "3"}


def test_a_key_is_asked_for_where_http_asks_for_one():
    server = Server(keys=ApiKeys(["one"]))
    for metadata, code in (({}, grpc.StatusCode.UNAUTHENTICATED), ({"authorization": "Bearer one"}, None)):
        context = FakeContext(**metadata)
        score(server, "fill-mask", "a [MASK]", context=context)
        assert context.code == code


def test_embeddings_are_vectors():
    reply = asyncio.run(Service(Server().app).embed(messages.EmbedRequest(inputs=["a", "b"]), FakeContext()))
    assert [list(embedding.values) for embedding in reply.embeddings] == [[0.25, -1.0]] * 2


def generate(server: Server, context: FakeContext, **fields):
    async def main():
        request = messages.GenerateRequest(prompt="a", **fields)
        return [(reply.text, reply.finish_reason) async for reply in Service(server.app).generate(request, context)]

    return asyncio.run(main())


def test_a_text_comes_piece_by_piece_and_a_failure_in_the_middle_ends_it_with_its_code():
    piece = {"index": 0, "text": " there", "logprobs": None, "finish_reason": None}
    server, context = Server(), FakeContext()
    head = server.heads["text-generation"]
    head.events = [{"choices": [piece]}, {"choices": [{**piece, "finish_reason": "length"}]}]
    options = {"max_tokens": 3, "temperature": 0.5, "stop": ["x"], "seed": 2**40}
    assert generate(server, context, **options) == [(" there", ""), (" there", "length")]
    assert context.code is None
    called = head.calls[-1][1]["options"]
    assert [called[name] for name in ("max_new_tokens", "temperature", "stop", "seed")] == [3, 0.5, ("x",), 2**40]
    head.events = [{"choices": [piece]}, ServingError("head_unavailable", "gone")]
    assert generate(server, context)[0] == (" there", "")
    assert (context.code, context.details) == (grpc.StatusCode.UNAVAILABLE, "gone")
    assert context.trailing == {"error-type": "head_unavailable"}
    head.events = [ServingError("overloaded", "full", retry_after_s=1)]
    context = FakeContext()
    assert generate(server, context) == [("", "")]
    assert context.code == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_caller_that_leaves_ends_the_generation():
    server = Server()
    piece = {"index": 0, "text": " there", "logprobs": None, "finish_reason": None}
    server.heads["text-generation"].events = [{"choices": [piece]}] * 100

    async def main():
        replies = Service(server.app).generate(messages.GenerateRequest(prompt="a"), FakeContext())
        await anext(replies)
        await replies.aclose()

    asyncio.run(main())
    assert server.heads["text-generation"].closed_streams == 1


def test_the_generated_code_is_that_of_the_proto(tmp_path):
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed")
    names = ("bigbird_pb2.py", "bigbird_pb2.pyi", "bigbird_pb2_grpc.py")
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", f"--python_out={tmp_path}", f"--pyi_out={tmp_path}",
               f"--grpc_python_out={tmp_path}", "serving/rpc/bigbird.proto"]  # fmt: skip
    subprocess.run(command, cwd=ROOT, check=True, timeout=120)
    for name in names:
        assert (tmp_path / "serving" / "rpc" / name).read_text() == (ROOT / "serving" / "rpc" / name).read_text(), name
