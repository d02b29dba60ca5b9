"""The engine gives every request what it would get alone, in any company, and keeps nothing of those that left."""

import random
from collections import defaultdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_decoders import LetterTokenizer, SumModel, tiny_decoder

from bigbird.errors import InputError
from bigbird.generation.engine import Engine
from bigbird.generation.generate import GenerationChunk, GenerationOptions, generate


def finish(engine: Engine) -> dict[int, list[GenerationChunk]]:
    """Step until nothing is left; all events by request."""
    events: dict[int, list[GenerationChunk]] = defaultdict(list)
    while engine.has_work:
        for event in step(engine):
            events[event.request_id].append(event)
    return events


def step(engine: Engine) -> list[GenerationChunk]:
    """A step, which with work to do must do some: otherwise a test would go on for ever."""
    passes = engine.stats.num_steps
    events = engine.step()
    assert events or engine.stats.num_steps > passes or not engine.has_work, "the engine is stuck"
    return events


def tokens(events: list[GenerationChunk]) -> list[int]:
    return [event.token_id for event in events if event.token_id is not None]


def assert_empty(engine: Engine) -> None:
    stats = engine.stats
    assert stats.num_waiting == stats.num_running == 0
    assert stats.num_used_cache_tokens == 0
    assert engine._cache.num_available_pages == engine._cache.num_pages
    assert engine._cache.num_sequences == 0


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_200_requests_at_random_times_with_cancellations_get_what_they_get_alone(seed: int):
    chance = random.Random(seed)
    model = SumModel()
    engine = Engine(
        model,
        max_cache_tokens=chance.choice([512, 2048, 8192]),
        max_streams=chance.choice([1, 5, 32]),
        prefill_tokens=chance.choice([8, 64, 256]),
    )
    prefixes = [[chance.randrange(50) for _ in range(length)] for length in (64, 130, 200)]
    requests: dict[int, tuple[list[int], int]] = {}
    events: dict[int, list[GenerationChunk]] = defaultdict(list)
    cancelled = set()
    while len(requests) < 200 or engine.has_work:
        while len(requests) < 200 and chance.random() < 0.5:
            prompt = chance.choice([[], [], *prefixes]) + [
                chance.randrange(50) for _ in range(chance.choice([1, 2, 9, 70]))
            ]
            options = GenerationOptions(max_new_tokens=chance.randint(1, 20))
            requests[engine.submit(prompt, options)] = prompt, options.max_new_tokens
        if requests and chance.random() < 0.1:
            request = chance.choice(list(requests))
            engine.cancel(request)
            cancelled.add(request)
        for event in step(engine):
            events[event.request_id].append(event)
    assert_empty(engine)
    for request, (prompt, max_new_tokens) in requests.items():
        expected = model.expected(prompt, max_new_tokens)
        reasons = [event.finish_reason for event in events[request]]
        assert all(reason is None for reason in reasons[:-1])
        got = tokens(events[request])
        if reasons[-1] == "cancelled":
            assert request in cancelled
            assert got == expected[: len(got)]
        else:
            assert got == expected
            assert reasons[-1] == ("stop" if expected[-1] == 0 else "length")


@pytest.mark.parametrize("seed", [0, 1])
def test_a_real_model_says_in_company_what_generate_says(seed: int):
    chance = random.Random(seed)
    model, tokenizer = tiny_decoder(seed), LetterTokenizer()
    engine = Engine(model, tokenizer, max_cache_tokens=4096, max_streams=16, prefill_tokens=64)
    common = [chance.randrange(90) for _ in range(100)]
    requests, events = {}, defaultdict(list)
    while len(requests) < 40 or engine.has_work:
        while len(requests) < 40 and chance.random() < 0.5:
            prompt = chance.choice([[], common]) + [chance.randrange(90) for _ in range(chance.choice([1, 8, 150]))]
            options = GenerationOptions(
                max_new_tokens=chance.randint(1, 16),
                **chance.choice(
                    [{}, {}, {"temperature": 0.7, "top_k": 20}, {"temperature": 0.7, "top_k": 20, "top_p": 0.9}]
                ),
                prompt_lookup_num_tokens=chance.choice([0, 0, 5]),
                repetition_penalty=chance.choice([1.0, 1.2]),
                min_new_tokens=chance.choice([0, 1]),
                seed=chance.randrange(1000),
                stop=chance.choice([(), ("a", "7")]),
                logprobs=True,
            )
            requests[engine.submit(prompt, options)] = prompt, options
        for event in step(engine):
            events[event.request_id].append(event)
    assert_empty(engine)
    assert engine.stats.num_shared_tokens > 0
    for request, (prompt, options) in requests.items():
        (alone,) = generate(model, tokenizer, [prompt], options)
        assert tokens(events[request]) == list(alone.token_ids)
        assert "".join(event.text for event in events[request]) == alone.text
        assert events[request][-1].finish_reason == alone.finish_reason
        logprobs = torch.tensor([event.logprob for event in events[request]])
        torch.testing.assert_close(logprobs, torch.tensor(alone.logprobs), atol=1e-4, rtol=1e-4)


def test_10000_requests_leave_nothing_behind():
    chance = random.Random(3)
    model = SumModel()
    engine = Engine(model, max_cache_tokens=4096)
    for number in range(10_000):
        prompt = [chance.randrange(1, 50) for _ in range(chance.choice([1, 3, 20]))]
        request = engine.submit(prompt, GenerationOptions(max_new_tokens=chance.randint(1, 4)))
        if number % 7 == 0:
            engine.cancel(request)
        if number % 24 == 23:
            engine.step()
        if number % 1000 == 999:
            finish(engine)
            assert_empty(engine)
    assert not engine._scheduler.requests


def test_a_long_prompt_is_read_in_chunks_between_the_steps_of_others():
    model = SumModel()
    engine = Engine(model, prefill_tokens=100)
    running = engine.submit([1], GenerationOptions(max_new_tokens=100, eos_token_ids=()))
    engine.step()
    engine.submit([2] * 1000, GenerationOptions(max_new_tokens=1))
    for _ in range(10):
        assert [event.request_id for event in engine.step()][:1] == [running]
    assert model.most_tokens == 101
    assert engine.stats.num_prompt_tokens == 1001


def test_a_short_prompt_does_not_wait_for_a_long_one():
    engine = Engine(SumModel(), prefill_tokens=100)
    engine.submit([1] * 2000, GenerationOptions(max_new_tokens=1))
    engine.step()
    short = engine.submit([2] * 10, GenerationOptions(max_new_tokens=1))
    before = engine.stats.num_prompt_tokens
    assert [event.request_id for event in engine.step()] == [short]
    assert engine.stats.num_prompt_tokens - before == 10  # a step of its own


def test_short_prompts_without_end_do_not_starve_a_long_one():
    engine = Engine(SumModel(), prefill_tokens=100)
    long = engine.submit([1] * 1000, GenerationOptions(max_new_tokens=1))
    for _ in range(30):
        engine.submit([2] * 10, GenerationOptions(max_new_tokens=1))
        if long in [event.request_id for event in engine.step()]:
            break
    else:
        pytest.fail("the long prompt starved")


def test_admission_is_in_the_order_of_arrival():
    engine = Engine(SumModel(), max_cache_tokens=256)
    options = GenerationOptions(max_new_tokens=8, eos_token_ids=())
    for length in (150, 200, 8):  # the second does not fit beside the first; the third would
        engine.submit([1] * length, options)
    engine.step()
    assert engine.stats.num_waiting == 2
    ends = {request: number for number, request in enumerate(finish(engine))}
    assert list(ends) == [0, 1, 2]


def test_waiting_and_running_requests_are_cancelled_at_the_next_step():
    engine = Engine(SumModel(), max_streams=1)
    options = GenerationOptions(max_new_tokens=50, eos_token_ids=())
    running, waiting, last = (engine.submit([1], options) for _ in range(3))
    engine.step()
    engine.cancel(running)
    engine.cancel(waiting)
    events = engine.step()
    assert [(event.request_id, event.token_id, event.finish_reason) for event in events[:2]] == [
        (running, None, "cancelled"),
        (waiting, None, "cancelled"),
    ]
    assert events[2].request_id == last
    engine.cancel(running)  # ended already: nothing happens
    assert len(tokens(finish(engine)[last])) == 49


def test_a_shared_prefix_is_computed_once():
    model = SumModel()
    engine = Engine(model)
    prefix = [3] * 300
    options = GenerationOptions(max_new_tokens=5, eos_token_ids=())
    requests = {engine.submit([*prefix, last], options): [*prefix, last] for last in (1, 2, 3, 4)}
    events = finish(engine)
    assert engine.stats.num_shared_tokens == 3 * 256
    assert engine.stats.num_prompt_tokens == 301 + 3 * (301 - 256)
    for request, prompt in requests.items():
        history = list(prompt)
        for token in tokens(events[request]):
            assert token == (7 * sum(history) + len(history)) % 50
            history.append(token)
    assert_empty(engine)


def test_followers_of_a_cancelled_leader_compute_their_prefix_themselves():
    model = SumModel()
    engine = Engine(model, prefill_tokens=64)
    options = GenerationOptions(max_new_tokens=3)
    leader = engine.submit([3] * 500, options)
    follower = engine.submit([3] * 400 + [1], options)
    engine.step()
    engine.cancel(leader)
    assert tokens(finish(engine)[follower]) == model.expected([3] * 400 + [1], 3)
    assert_empty(engine)


def test_requests_that_could_never_be_served_are_refused_at_once():
    engine = Engine(SumModel(max_position_embeddings=500), max_cache_tokens=256)
    for prompt, options, message in [
        ([], {}, "at least 1 token, got 0"),
        ([50], {}, "from 0 to 49, got 50"),
        ([1] * 300, {"max_new_tokens": 201}, "at most 500 tokens together, got 300 [+] 201 = 501"),
        ([1] * 200, {"max_new_tokens": 64}, "at most 256 tokens together .max_cache_tokens., got 264"),
        ([1] * 60, {"num_beams": 3}, "at most 256 tokens together .*, got 124 for each of 3 beams"),
        ([1], {"num_return_sequences": 2, "temperature": 1.0}, "make one request a text"),
        ([1], {"stop": ("a",)}, "stop strings need a tokenizer"),
        ([1], {"eos_token_ids": (50,)}, "eos_token_ids must be from 0 to 49, got 50"),
    ]:
        with pytest.raises(InputError, match=message):
            engine.submit(prompt, GenerationOptions(**options))
    assert not engine.has_work
    with pytest.raises(InputError, match="max_streams must be at least 1, got 0"):
        Engine(SumModel(), max_streams=0)


def test_a_step_without_work_does_nothing():
    model = SumModel()
    engine = Engine(model)
    assert engine.step() == []
    assert model.num_passes == 0
