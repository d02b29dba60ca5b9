"""A scoring replica without Serve around it: what it refuses before any work is done."""

import asyncio
import threading

import pytest

from bigbird import BigBirdForMaskedLM, BigBirdForTokenClassification
from serving.settings import HeadArguments

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")  # as Serve is imported


def test_too_many_open_requests_are_refused_for_all_as_long_as_the_model_has_work(tiny_checkpoint, monkeypatch):
    from serving.replicas.scoring import ScoringReplica

    checkpoint = tiny_checkpoint(BigBirdForTokenClassification, num_labels=3)
    replica = ScoringReplica(
        "legal", HeadArguments(task="token-classification", checkpoint=str(checkpoint), max_queued_requests=1)
    )
    request = {"inputs": ["the first block"], "options": {}, "timeout_s": 60.0}
    reached, gate, forward = threading.Event(), threading.Event(), replica._predictor.forward

    def held(prepared):
        reached.set()
        gate.wait()
        return forward(prepared)

    async def main():
        assert "records" in await replica.score(request)  # the rate is known afterwards
        monkeypatch.setattr(replica._predictor, "forward", held)
        first = asyncio.create_task(replica.score(request))
        await asyncio.to_thread(reached.wait)
        try:
            refused = await replica.score(request)
        finally:
            gate.set()
        assert "records" in await first
        return refused["failure"]

    failure = asyncio.run(main())
    assert (failure["kind"], failure["message"]) == ("overloaded", "1 requests are here, the limit is 1")
    assert failure["busy_s"] > 0


@pytest.mark.parametrize(
    ("dtype", "said"), [(None, {"float32"}), ("auto", {"float32", "bfloat16"}), ("int8", {"int8"})]
)
def test_the_description_names_the_type_that_is_computed_in(tiny_checkpoint, dtype, said):
    from serving.replicas.scoring import ScoringReplica

    checkpoint = str(tiny_checkpoint(BigBirdForTokenClassification, num_labels=3))
    replica = ScoringReplica("legal", HeadArguments(task="token-classification", checkpoint=checkpoint, dtype=dtype))
    assert asyncio.run(replica.describe({}))["details"]["dtype"] in said


@pytest.fixture(scope="module")
def replica(tiny_checkpoint):
    from serving.replicas.scoring import ScoringReplica

    checkpoint = str(tiny_checkpoint(BigBirdForTokenClassification, num_labels=3))
    return ScoringReplica(
        "legal", HeadArguments(task="token-classification", checkpoint=checkpoint, max_tokens_per_request=90_000)
    )


def _watched(replica, monkeypatch):
    """The lengths of the texts that the tokenizer of a replica gets, as it gets them."""
    given, encode_batch = [], replica._predictor.tokenizer.encode_batch

    def watched(texts, **options):
        given.append(max(map(len, [texts] if isinstance(texts, str) else texts)))
        return encode_batch(texts, **options)

    monkeypatch.setattr(replica._predictor.tokenizer, "encode_batch", watched)
    return given


@pytest.mark.parametrize(
    "text", ["a block " * 200_000, "東" * 400_000, "x" * 1_500_000], ids=["words", "cjk", "one word"]
)
def test_a_text_of_too_many_tokens_never_reaches_the_tokenizer_whole(replica, monkeypatch, text):
    given = _watched(replica, monkeypatch)
    answer = asyncio.run(replica.score({"inputs": ["short", text], "options": {}, "timeout_s": 60.0}))
    assert answer["failure"]["kind"] == "invalid_input"
    assert answer["failure"]["param"] == "inputs.1"
    assert max(given) <= 64 * 1024


def test_a_client_that_leaves_ends_the_tokenizing_of_its_text(replica, monkeypatch):
    given = _watched(replica, monkeypatch)

    async def main():
        request = {"inputs": ["東" * 400_000], "options": {"on_long": "truncate"}, "timeout_s": 60.0}
        asked = asyncio.create_task(replica.score(request))
        while not given:
            await asyncio.sleep(0.001)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        num_given = len(given)
        await replica.score({"inputs": ["a " * 40_000], "options": {"on_long": "truncate"}, "timeout_s": 60.0})
        return num_given

    assert asyncio.run(main()) <= 2
    assert max(given) < 400_000


def test_texts_just_within_the_limit_are_read_and_counted_as_the_tokenizer_counts_them(replica):
    text = "the first block, " * 15_000
    tokenizer = replica._predictor.tokenizer
    count = len(tokenizer.encode_batch(text, add_special_tokens=False))
    assert len(text) > 2 * 64 * 1024
    for limit, more in ((count, False), (count // 2, True)):
        found = asyncio.run(replica._text.tokens_at_least(text, tokenizer, limit))
        assert found <= count
        assert (found > limit) == more


def test_options_of_a_tiny_text_are_not_worked_on_where_other_requests_wait(tiny_checkpoint):
    from serving.replicas.scoring import ScoringReplica

    checkpoint = str(tiny_checkpoint(BigBirdForMaskedLM))
    replica = ScoringReplica("mask", HeadArguments(task="fill-mask", checkpoint=checkpoint))
    predictor, threads = replica._predictor, set()

    def noted(function):
        def call(*arguments):
            threads.add(threading.get_ident())
            return function(*arguments)

        return call

    predictor.preprocess, predictor.postprocess = noted(predictor.preprocess), noted(predictor.postprocess)
    request = {"inputs": ["a [MASK]"], "options": {"top_k": 5}, "timeout_s": 60.0}
    assert "records" in asyncio.run(replica.score(request))
    assert threading.get_ident() not in threads
    assert "records" in asyncio.run(replica.score({**request, "options": {}}))
    assert threading.get_ident() in threads
