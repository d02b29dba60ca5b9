"""Traces of what a replica does for a request, and their way to a collector; without Ray."""

import asyncio
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise
from typing import ClassVar

import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from bigbird import BigBirdForCausalLM, BigBirdForTokenClassification
from serving.settings import HeadArguments

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")  # as Serve is imported


@pytest.fixture
def collector(monkeypatch):
    provider, collector = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(collector))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    return collector


def test_a_request_s_spans_lie_in_the_span_of_its_call_and_an_untraced_one_has_none(tiny_checkpoint, collector):
    from serving.replicas.scoring import ScoringReplica

    checkpoint = str(tiny_checkpoint(BigBirdForTokenClassification, num_labels=3))
    arguments = HeadArguments(task="token-classification", checkpoint=checkpoint, max_tokens_per_batch=64)
    replica = ScoringReplica("tagger", arguments)

    async def call(name, inputs):
        request = {"inputs": inputs, "options": {}, "timeout_s": 60.0}
        if name == "untraced":
            return await replica.score(request)
        with trace.get_tracer("test").start_as_current_span(name):
            return await replica.score(request)

    async def main():
        for name in ("one", "untraced"):
            assert "records" in await call(name, ["the first block"])
        await asyncio.gather(call("two", ["the first block"] * 40), call("three", ["the first block"]))

    asyncio.run(main())
    spans = collector.get_finished_spans()
    calls = {span.name: span for span in spans if span.parent is None}
    assert set(calls) == {"one", "two", "three"}
    for name, call_span in calls.items():
        inside = [span for span in spans if span.parent and span.parent.span_id == call_span.context.span_id]
        assert {span.name for span in inside} == {"tokenize", "batch", "decode"}
        for span in inside:
            assert call_span.start_time <= span.start_time <= span.end_time <= call_span.end_time
            assert span.context.trace_id == call_span.context.trace_id
        num_batches = sum(span.name == "batch" for span in inside)
        assert (num_batches > 1) == (name == "two"), "its tokens do not fit one batch"
    assert len(spans) == 3 + sum(span.parent is not None for span in spans)


def test_a_generation_is_traced_from_its_wait_for_a_slot_to_its_last_token(tiny_checkpoint, collector):
    from serving.replicas.generation import GenerationReplica

    checkpoint = str(tiny_checkpoint(BigBirdForCausalLM, is_decoder=True, attention_type="original_full"))
    replica = GenerationReplica(
        "writer", HeadArguments(task="text-generation", checkpoint=checkpoint, num_cpus=1, max_slots=1)
    )
    options = {"max_new_tokens": 8, "min_new_tokens": 8}
    completion = {"prompts": ["the first block"], "n": 1, "echo": False, "options": options, "timeout_s": 60.0}
    continuation = {"prompt": "the first block", "truncate": None, "options": options, "timeout_s": 60.0}

    async def traced(name, call):
        with trace.get_tracer("test").start_as_current_span(name):
            assert "failure" not in await call

    async def main():
        # One slot: one of them waits until the other has ended.
        await asyncio.gather(
            traced("first", replica.complete(completion)), traced("second", replica.generate(continuation))
        )
        await replica.complete(completion)

    asyncio.run(main())
    spans = collector.get_finished_spans()
    calls = {span.name: span for span in spans if span.parent is None}
    assert set(calls) == {"first", "second"}
    found = {}
    for name, call_span in calls.items():
        inside = [span for span in spans if span.parent and span.parent.span_id == call_span.context.span_id]
        assert [span.name for span in inside] == ["tokenize", "queue", "prefill", "decode"]
        for earlier, later in pairwise(inside):
            assert earlier.start_time <= earlier.end_time <= later.start_time + 1e6, "one begins where another ends"
        assert call_span.start_time <= inside[0].start_time
        assert inside[-1].end_time <= call_span.end_time
        found[name] = {span.name: span for span in inside}
        assert found[name]["decode"].attributes["num_tokens"] == 8
    served, waiting = sorted(found.values(), key=lambda inside: inside["queue"].end_time)
    assert waiting["queue"].start_time < served["prefill"].end_time <= waiting["queue"].end_time
    assert len(spans) == 10, "what is not traced has no spans"


class Collector(BaseHTTPRequestHandler):
    """Takes what OTLP's HTTP exporter sends; `received` has its bodies."""

    received: ClassVar[list[bytes]] = []

    def do_POST(self):
        self.received.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


def test_spans_reach_a_collector_over_http(monkeypatch):
    from serving.otlp import exporter

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
        provider = TracerProvider()
        for processor in exporter():
            provider.add_span_processor(processor)
        provider.get_tracer("test").start_span("a batch").end()
        provider.shutdown()
        server.shutdown()
    (body,) = Collector.received
    sent = ExportTraceServiceRequest.FromString(body)
    assert [span.name for one in sent.resource_spans for scope in one.scope_spans for span in scope.spans] == [
        "a batch"
    ]
