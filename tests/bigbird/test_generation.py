"""Generated tokens are those of transformers, alone and together; options mean what they say."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mended_transformers import mended
from tiny_decoders import TINY, LetterTokenizer, SumModel, prompts_of, tiny_decoder, with_theirs

from bigbird.attention.cached import CachedAttention
from bigbird.attention.kv_cache import KVCache
from bigbird.errors import InputError
from bigbird.generation.engine import Engine, Piece, run
from bigbird.generation.generate import GenerationOptions, encode_prompt, generate, stream
from bigbird.inference import prepare_for_inference
from bigbird.linear.packed import can_pack

LENGTHS = [1, 2, 17, 63, 64, 65, 300, 1100, 1500]


def their_tokens(theirs: Any, prompt: list[int], options: GenerationOptions, **inputs: Any) -> list[int]:
    ids = torch.tensor([prompt])
    output = theirs.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=options.max_new_tokens,
        min_new_tokens=options.min_new_tokens or None,
        num_beams=options.num_beams,
        length_penalty=options.length_penalty,
        early_stopping=options.early_stopping,
        repetition_penalty=options.repetition_penalty,
        eos_token_id=[2] if options.eos_token_ids is None else list(options.eos_token_ids) or [10**6],  # never comes
        pad_token_id=0,
        **inputs,
    )
    return output[0, len(prompt) :].tolist()


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


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"length_penalty": 0.0},
        {"length_penalty": 2.5},
        {"length_penalty": -1.0},
        {"early_stopping": True},
        {"repetition_penalty": 1.4},
        {"min_new_tokens": 6},
        {"num_beams": 2, "eos_token_ids": ()},
        {"num_beams": 7, "eos_token_ids": (2, 5, 9, 11, 13)},
        {"max_new_tokens": 1},
    ],
)
def test_beam_search_equals_transformers(changes: dict[str, Any]):
    theirs, ours = with_theirs(seed=5)
    options = GenerationOptions(
        **{"max_new_tokens": 16, "num_beams": 4, "eos_token_ids": tuple(range(4, 20))} | changes
    )
    prompts = prompts_of([1, 5, 17, 64, 66, 200], seed=len(str(changes)))
    results = generate(ours, None, prompts, options)
    assert [list(result.token_ids) for result in results] == [
        their_tokens(theirs, prompt, options) for prompt in prompts
    ]
    for result in results:
        assert result.finish_reason == ("stop" if result.token_ids[-1] in (options.eos_token_ids or ()) else "length")


def test_long_prompts_equal_transformers_with_beams():
    theirs, ours = with_theirs(seed=6)
    options = GenerationOptions(max_new_tokens=10, num_beams=3)
    for prompt in prompts_of([1100, 1500]):
        assert list(generate(ours, None, [prompt], options)[0].token_ids) == their_tokens(theirs, prompt, options)


@pytest.mark.parametrize("changes", [{"repetition_penalty": 1.5}, {"min_new_tokens": 8}])
def test_processed_greedy_equals_transformers(changes: dict[str, Any]):
    theirs, ours = with_theirs(seed=7)
    options = GenerationOptions(max_new_tokens=16, eos_token_ids=tuple(range(10, 40)), **changes)
    for prompt in prompts_of([3, 40, 80]):
        assert list(generate(ours, None, [prompt], options)[0].token_ids) == their_tokens(theirs, prompt, options)


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_cross_attention_equals_transformers(num_beams: int, masked: bool):
    theirs, ours = with_theirs(seed=8, add_cross_attention=True)
    mended(theirs)
    prompts = prompts_of([4, 20, 70])
    states = torch.randn(3, 11, TINY["hidden_size"], generator=torch.Generator().manual_seed(9)) * 3
    mask = torch.ones(3, 11, dtype=torch.long)
    if masked:
        mask[1, 4:] = 0
        mask[2, :5] = 0
    options = GenerationOptions(max_new_tokens=12, num_beams=num_beams)
    results = generate(
        ours, None, prompts, options, encoder_hidden_states=states, encoder_attention_mask=mask if masked else None
    )
    for row, prompt in enumerate(prompts):
        expected = their_tokens(
            theirs,
            prompt,
            options,
            use_cache=False,  # its cache holds self-attention's keys, which cross-attention would read
            encoder_hidden_states=states[row : row + 1],
            encoder_attention_mask=mask[row : row + 1],
        )
        assert list(results[row].token_ids) == expected
    assert generate(ours, None, prompts, options) != results


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


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize(
    "changes",
    [{"no_repeat_ngram_size": 2}, {"no_repeat_ngram_size": 1}, {"bad_words_ids": [[7], [11, 12], [5, 6, 30], [20]]}],
)
def test_forbidden_tokens_equal_transformers(changes: dict[str, Any], num_beams: int):
    theirs, ours = with_theirs(seed=7)
    options = GenerationOptions(max_new_tokens=24, num_beams=num_beams, **changes)
    theirs.generation_config.update(**changes)
    for prompt in prompts_of([3, 40, 80]):
        assert list(generate(ours, None, [prompt], options)[0].token_ids) == their_tokens(theirs, prompt, options)


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be an integer of 1 up, got 0"),
        ({"max_new_tokens": 1.5}, "max_new_tokens must be an integer of 1 up, got 1.5"),
        ({"max_new_tokens": True}, "max_new_tokens must be an integer of 1 up, got True"),
        ({"min_new_tokens": 65}, "min_new_tokens must be an integer from 0 to max_new_tokens 64, got 65"),
        ({"temperature": -0.1}, "temperature must be a number from 0.0 to 100.0, got -0.1"),
        ({"temperature": float("nan")}, "temperature must be a number .* got nan"),
        ({"temperature": "hot"}, "temperature must be a number .* got 'hot'"),
        ({"top_k": -1}, "top_k must be an integer of 0 up, got -1"),
        ({"top_p": 0.0}, "top_p must be a number above 0.0 to 1.0, got 0.0"),
        ({"top_p": 1.1}, "top_p .* got 1.1"),
        ({"min_p": 1.1}, "min_p must be a number from 0.0 to 1.0, got 1.1"),
        ({"repetition_penalty": 0}, "repetition_penalty must be a number above 0.0 to 100.0, got 0"),
        ({"seed": -1}, "seed must be an integer from 0 to 9223372036854775807, got -1"),
        ({"stop": "end"}, "stop must be a tuple of str, got 'end'"),
        ({"stop": ("",)}, "stop must be strings with characters"),
        ({"eos_token_ids": (1.0,)}, "eos_token_ids must be a tuple of int"),
        ({"eos_token_ids": (-1,)}, "eos_token_ids must be at least 0"),
        ({"logprobs": 1}, "logprobs must be True or False, got 1"),
        ({"num_beams": 0}, "num_beams must be an integer from 1 to 64, got 0"),
        ({"num_beams": 2, "temperature": 0.5}, "temperature must be 0.0 with beam search .num_beams 2., got 0.5"),
        ({"num_beams": 2, "stop": ("a",)}, "stop must be .. with beam search"),
        ({"num_beams": 2, "logprobs": True}, "logprobs must be False with beam search"),
        ({"top_p": 0.9}, "top_p must be 1.0 at temperature 0, which draws nothing, got 0.9"),
        ({"top_k": 5}, "top_k must be 0 at temperature 0"),
        ({"min_p": 0.1}, "min_p must be 0.0 at temperature 0"),
        ({"early_stopping": True}, "early_stopping must be False without beam search .num_beams 1., got True"),
        ({"length_penalty": 2.0}, "length_penalty must be 1.0 without beam search"),
        ({"num_return_sequences": 2}, "num_return_sequences must be at most num_beams 1 at temperature 0, got 2"),
        ({"num_beams": 2, "num_return_sequences": 3}, "at most num_beams 2 .* got 3"),
        ({"num_beams": 2, "prompt_lookup_num_tokens": 3}, "prompt_lookup_num_tokens must be 0 with beam search"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size must be an integer of 0 up, got -1"),
        ({"bad_words_ids": ((),)}, "bad_words_ids must be lists of int of at least 0, none empty"),
        ({"length_penalty": float("inf")}, "length_penalty must be a number .* got inf"),
    ],
)
def test_options_beyond_their_limit_are_refused_by_name(changes: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        GenerationOptions(**changes)


def test_inputs_beyond_the_model_are_refused_before_anything_is_computed():
    model = SumModel(max_position_embeddings=100)
    tokenizer = LetterTokenizer()
    for prompts, options, message in [
        ([[1], []], {}, "prompt 1: a prompt needs at least 1 token, got 0"),
        ([[1], [50]], {}, "prompt 1: .* from 0 to 49, got 50"),
        ([[1], [1] * 90], {"max_new_tokens": 11}, "prompt 1: .* at most 100 tokens together, got 90 [+] 11 = 101"),
        ("text", {}, "prompts must be a list of prompts, got one string"),
    ]:
        with pytest.raises(InputError, match=message):
            generate(model, tokenizer, prompts, GenerationOptions(**options))
    with pytest.raises(InputError, match="a text needs a tokenizer"):
        generate(model, None, ["text"])
    with pytest.raises(InputError, match="num_beams must be 1 to stream, got 2"):
        stream(model, None, [1], GenerationOptions(num_beams=2))
    with pytest.raises(InputError, match="prompt 0"):
        stream(model, None, [])
    assert model.num_passes == 0
    assert generate(model, tokenizer, [[1] * 89], GenerationOptions(max_new_tokens=11))


def test_encoder_states_of_the_wrong_form_are_refused():
    with_cross, without = tiny_decoder(add_cross_attention=True), tiny_decoder()
    states = torch.zeros(1, 3, TINY["hidden_size"])
    for model, inputs, message in [
        (without, {"encoder_hidden_states": states}, "add_cross_attention=True"),
        (with_cross, {"encoder_hidden_states": states[0]}, r"must be \(1, encoder_length, 32\), got \(3, 32\)"),
        (
            with_cross,
            {"encoder_hidden_states": states, "encoder_attention_mask": torch.ones(1, 4)},
            r"encoder_attention_mask must be \(1, 3\), got \(1, 4\)",
        ),
        (with_cross, {"encoder_attention_mask": torch.ones(1, 4)}, "needs encoder_hidden_states"),
    ]:
        with pytest.raises(InputError, match=message):
            generate(model, None, [[1]], **inputs)


def test_a_model_that_reads_both_ways_is_refused():
    model = tiny_decoder(is_decoder=False)
    with pytest.raises(InputError, match="is_decoder=False"):
        generate(model, None, [[1]])
