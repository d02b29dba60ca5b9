"""Generated tokens are those of transformers, alone and together; options mean what they say."""

from collections import defaultdict
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_decoders import LetterTokenizer, SumModel, prompts_of, their_tokens, tiny_decoder, with_theirs

from bigbird.attention.cached import CachedAttention
from bigbird.attention.kv_cache import KVCache
from bigbird.generation.engine import Engine, Piece, run
from bigbird.generation.generate import GenerationOptions, encode_prompt, generate, stream
from bigbird.inference import prepare_for_inference
from bigbird.linear.packed import can_pack

LENGTHS = [1, 2, 17, 63, 64, 65, 300, 1100, 1500]


@pytest.mark.parametrize("use_cache", [True, False])
def test_greedy_equals_transformers_at_every_length_alone_and_together(use_cache: bool):
    theirs, ours = with_theirs()
    prompts = prompts_of(LENGTHS if use_cache else LENGTHS[:7])
    options = GenerationOptions(max_new_tokens=20, eos_token_ids=(2, 5, 9))
    together = [list(result.token_ids) for result in generate(ours, None, prompts, options)]
    assert together == [their_tokens(theirs, prompt, options, use_cache=use_cache) for prompt in prompts]
    assert together == [list(generate(ours, None, [prompt], options)[0].token_ids) for prompt in prompts]


def test_greedy_equals_transformers_on_a_left_padded_batch():
    theirs, ours = with_theirs(seed=3)
    prompts = prompts_of([5, 30, 90, 12])
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    # Their generate counts positions from the padding on, so their steps are taken here with positions of our own.
    expected, past, last = torch.empty(4, 0, dtype=torch.long), None, ids
    with torch.no_grad():
        for _ in range(12):
            output = theirs(last, attention_mask=mask, position_ids=positions, past_key_values=past, use_cache=True)
            past, last = output.past_key_values, output.logits[:, -1:].argmax(-1)
            expected = torch.cat([expected, last], dim=1)
            mask = torch.cat([mask, mask.new_ones(4, 1)], dim=1)
            positions = positions[:, -1:] + 1
    results = generate(ours, None, prompts, GenerationOptions(max_new_tokens=12, eos_token_ids=()))
    assert [list(result.token_ids) for result in results] == expected.tolist()


@settings(max_examples=15, deadline=None)
@given(length=st.integers(2, 200), data=st.data())
def test_cached_and_chunked_equal_the_whole_at_once(length, data):
    model = tiny_decoder(1)
    (prompt,) = prompts_of([length], seed=length)
    with torch.inference_mode():
        whole = model(torch.tensor([prompt])).logits[0]
    cache = KVCache.for_model(model, length)
    sequence = cache.open(length)
    start = 0
    while start < length:
        end = min(length, start + data.draw(st.sampled_from([1, 1, 7, 64, 200])))
        logits = run(model, cache, [Piece(sequence, prompt[start:end])])
        torch.testing.assert_close(logits[0], whole[end - 1], atol=1e-5 * float(whole.abs().max()), rtol=1e-5)
        start = end
    past = model(torch.tensor([prompt]), use_cache=True).past_key_values
    for number, layer in enumerate(past):
        for ours, theirs in zip(cache.read(number, sequence), layer, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_attention_of_a_step_is_planned_once_for_all_layers(monkeypatch: pytest.MonkeyPatch):
    made = []
    original = CachedAttention.__init__
    monkeypatch.setattr(CachedAttention, "__init__", lambda self, *args: (made.append(1), original(self, *args))[1])
    generate(tiny_decoder(), None, prompts_of([5, 9]), GenerationOptions(max_new_tokens=4, eos_token_ids=()))
    assert len(made) == 4


@pytest.mark.skipif(not can_pack(torch.float32), reason="products here are not packed, and round by their size")
@pytest.mark.parametrize("num_neighbours", [1, 7, 31])
def test_a_prepared_model_gives_the_same_bits_alone_and_in_company(num_neighbours: int):
    model = prepare_for_inference(tiny_decoder(hidden_size=64, intermediate_size=256))
    prompt, *prompts = prompts_of([130, *range(3, 3 + 5 * num_neighbours, 5)])
    answers = []
    for others in ([], prompts):
        cache = KVCache.for_model(model, 20_000)
        neighbours = [cache.open(300) for _ in others]
        for neighbour, its_prompt in zip(neighbours, others, strict=True):
            run(model, cache, [Piece(neighbour, its_prompt)])
        beside = [Piece(neighbour, [5]) for neighbour in neighbours]
        sequence = cache.open(300)
        passes = [prompt[:70], prompt[70:], [7], [8]]  # two chunks, two steps
        answers.append([run(model, cache, [*beside, Piece(sequence, ids)])[-1] for ids in passes])
    for alone, together in zip(*answers, strict=True):
        assert torch.equal(alone, together)


def test_logits_are_computed_for_last_positions_only(monkeypatch: pytest.MonkeyPatch):
    model = tiny_decoder()
    rows = []
    original = model.cls.forward
    monkeypatch.setattr(model.cls, "forward", lambda hidden: (rows.append(len(hidden)), original(hidden))[1])
    generate(model, None, prompts_of([50, 9]), GenerationOptions(max_new_tokens=3, eos_token_ids=()))
    assert rows == [2, 2, 2]


def test_the_same_seed_gives_the_same_text_whatever_runs_beside_it():
    model = tiny_decoder()
    prompts = prompts_of([5, 5, 40, 9])
    options = GenerationOptions(max_new_tokens=12, temperature=1.0, top_p=0.95, seed=11)
    together = generate(model, None, prompts, options)
    for prompt, result in zip(prompts, together, strict=True):
        assert generate(model, None, [prompt], options) == [result]
    other = GenerationOptions(max_new_tokens=12, temperature=1.0, top_p=0.95, seed=12)
    assert generate(model, None, prompts, other) != together
    unseeded = GenerationOptions(max_new_tokens=12, temperature=1.0)
    assert generate(model, None, prompts, unseeded) != generate(model, None, prompts, unseeded)


def test_generation_leaves_the_global_generator_and_grad_mode_alone():
    before = torch.random.get_rng_state()
    options = GenerationOptions(max_new_tokens=3, temperature=1.0, seed=1)
    chunks = stream(tiny_decoder(), None, [5, 6], options)
    torch.random.set_rng_state(before)
    next(chunks)
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    list(chunks)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_logprobs_are_those_of_the_model_itself():
    model = tiny_decoder()
    (prompt,) = prompts_of([10])
    options = GenerationOptions(max_new_tokens=6, temperature=2.0, seed=1, logprobs=True, eos_token_ids=())
    (result,) = generate(model, None, [prompt], options)
    with torch.inference_mode():
        logits = model(torch.tensor([[*prompt, *result.token_ids]])).logits[0, len(prompt) - 1 : -1]
    expected = logits.log_softmax(-1)[range(6), list(result.token_ids)]
    torch.testing.assert_close(torch.tensor(result.logprobs), expected, atol=1e-4, rtol=1e-4)


def test_a_prompt_s_tokens_are_scored_as_the_whole_model_scores_them_whatever_runs_beside():
    model = tiny_decoder()
    # Equal prompts share pages of the cache, longer ones are read in several steps.
    prompts = [*prompts_of([1, 2, 300, 1500]), prompts_of([300], seed=1)[0]]
    prompts[4][:200] = prompts[2][:200]
    engine = Engine(model, prefill_tokens=256)
    options = GenerationOptions(max_new_tokens=2, logprobs=True, prompt_logprobs=True, num_top_logprobs=3,
                                logit_bias=((7, 100.0),), eos_token_ids=())  # fmt: skip
    asked = {}
    for prompt in prompts:
        asked[engine.submit(prompt, options)] = prompt
        asked[engine.submit(prompt, replace(options, max_new_tokens=0, logprobs=False))] = prompt
        engine.submit(prompt, GenerationOptions(max_new_tokens=3))
    scored, generated = {}, defaultdict(list)
    while engine.has_work:
        for event in engine.step():
            if event.prompt_logprobs is not None:
                scored[event.request_id] = event.prompt_logprobs
            if event.token_id is not None:
                generated[event.request_id].append(event)
    assert set(scored) == set(asked)
    for request, prompt in asked.items():
        tokens = [event.token_id for event in generated[request]]
        assert tokens in ([], [7, 7]), "the bias decides"
        with torch.inference_mode():
            expected = model(torch.tensor([[*prompt, *tokens]])).logits[0].log_softmax(-1)
        found = [(item.token_id, item.logprob, item.top) for item in scored[request]]
        found += [(event.token_id, event.logprob, event.top_logprobs) for event in generated[request]]
        assert [token for token, _, _ in found] == [*prompt, *tokens][1:]
        for row, (token, logprob, top) in enumerate(found):
            assert logprob == pytest.approx(float(expected[row, token]), abs=1e-4)
            assert [number for _, number in top] == pytest.approx(expected[row].topk(3).values.tolist(), abs=1e-4)
            assert all(number == pytest.approx(float(expected[row, id_]), abs=1e-4) for id_, number in top)
            assert logprob <= top[0][1], "equal where the token is the likeliest"


@pytest.mark.parametrize("changes", [{}, {"repetition_penalty": 1.1, "min_new_tokens": 9}, {"temperature": 0.7}])
def test_prompt_lookup_gives_the_same_tokens_in_fewer_steps(changes: dict[str, Any]):
    model = tiny_decoder(4)
    prompts = [prompt * 3 for prompt in prompts_of([9, 30, 70])]
    options = GenerationOptions(max_new_tokens=90, seed=3, logprobs=True, eos_token_ids=(2, 50), **changes)
    with_lookup = replace(options, prompt_lookup_num_tokens=6)
    for prompt in [*prompts, None]:
        asked = prompts if prompt is None else [prompt]
        plain, looked_up = generate(model, None, asked, options), generate(model, None, asked, with_lookup)
        for one, other in zip(plain, looked_up, strict=True):
            assert (one.token_ids, one.finish_reason) == (other.token_ids, other.finish_reason)
            torch.testing.assert_close(torch.tensor(one.logprobs), torch.tensor(other.logprobs), atol=1e-4, rtol=1e-4)
    engine = Engine(model)
    engine.submit(prompts[1], with_lookup)
    num_tokens = sum(len(engine.step()) for _ in iter(lambda: engine.has_work, False))
    if not changes:
        assert engine.stats.num_steps < num_tokens


def test_several_texts_a_prompt_are_drawn_with_the_seeds_that_follow_or_are_the_best_beams():
    model = tiny_decoder(5)
    prompts = prompts_of([5, 9])
    drawn = GenerationOptions(max_new_tokens=8, temperature=1.0, seed=5, num_return_sequences=3)
    alone = [
        generate(model, None, [prompt], replace(drawn, seed=seed, num_return_sequences=1))[0]
        for prompt in prompts
        for seed in (5, 6, 7)
    ]
    assert generate(model, None, prompts, drawn) == alone
    beams = GenerationOptions(max_new_tokens=8, num_beams=4, num_return_sequences=3)
    results = generate(model, None, prompts, beams)
    assert len({result.token_ids for result in results[:3]}) == 3
    assert results[::3] == generate(model, None, prompts, replace(beams, num_return_sequences=1))


def test_a_stream_shows_what_generate_returns():
    model, tokenizer = tiny_decoder(2, vocab_size=200), LetterTokenizer()  # more tokens than the tokenizer knows
    options = GenerationOptions(max_new_tokens=30, temperature=1.0, seed=4, logprobs=True)
    (result,) = generate(model, tokenizer, ["hello"], options)
    chunks = list(stream(model, tokenizer, "hello", options))
    assert [chunk.token_id for chunk in chunks] == list(result.token_ids)
    assert "".join(chunk.text for chunk in chunks) == result.text
    assert [chunk.logprob for chunk in chunks] == list(result.logprobs or ())
    assert [chunk.finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + [result.finish_reason]
    assert result.num_prompt_tokens == 6
    assert result.num_generated_tokens == len(chunks)


def test_stop_strings_end_the_text_before_them():
    model, tokenizer = SumModel(vocab_size=61), LetterTokenizer()
    plain = GenerationOptions(max_new_tokens=40, eos_token_ids=())
    (whole,) = generate(model, tokenizer, ["a"], plain)
    stop = whole.text[5:8]
    assert whole.text.index(stop) == 5
    options = GenerationOptions(max_new_tokens=40, eos_token_ids=(), stop=("\n\n", stop))
    (result,) = generate(model, tokenizer, ["a"], options)
    assert result.text == whole.text[:5]
    assert result.finish_reason == "stop"
    assert result.token_ids == whole.token_ids[:8]


def test_end_of_sequence_tokens_end_the_text_and_are_not_in_it():
    model, tokenizer = SumModel(vocab_size=60), LetterTokenizer()
    (whole,) = generate(model, tokenizer, ["a"], GenerationOptions(max_new_tokens=40, eos_token_ids=()))
    end = whole.token_ids[6]
    first = whole.token_ids.index(end)
    (result,) = generate(model, tokenizer, ["a"], GenerationOptions(max_new_tokens=40, eos_token_ids=(end,)))
    assert result.token_ids == whole.token_ids[: first + 1]
    assert result.text == whole.text[:first]
    assert result.finish_reason == "stop"


def test_more_prompts_than_run_at_a_time_come_back_in_order():
    model = SumModel()
    prompts = [[1 + number % 40, number % 7] for number in range(70)]
    results = generate(model, None, prompts, GenerationOptions(max_new_tokens=5))
    assert [list(result.token_ids) for result in results] == [model.expected(prompt, 5) for prompt in prompts]


def test_texts_begin_as_they_are_tokenized():
    assert encode_prompt(LetterTokenizer(), "12") == [0, 1, 2]
    assert generate(SumModel(vocab_size=60), LetterTokenizer(), [""])[0].num_prompt_tokens == 1
