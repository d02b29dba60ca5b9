"""What cannot be done, or would change nothing, is refused by name before anything is computed."""

from typing import Any

import pytest
import torch
from tiny_decoders import TINY, LetterTokenizer, SumModel, tiny_decoder

from bigbird.errors import InputError
from bigbird.generation.generate import GenerationOptions, generate, stream


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be an integer of 1 up without prompt_logprobs, got 0"),
        ({"max_new_tokens": 1.5}, "max_new_tokens must be an integer of 0 up, got 1.5"),
        ({"max_new_tokens": True}, "max_new_tokens must be an integer of 0 up, got True"),
        ({"min_new_tokens": 65}, "min_new_tokens must be at most max_new_tokens 64, got 65"),
        ({"temperature": -0.1}, "temperature must be a number from 0.0 to 100.0, got -0.1"),
        ({"temperature": float("nan")}, "temperature must be a number .* got nan"),
        ({"temperature": "hot"}, "temperature must be a number .* got 'hot'"),
        ({"top_k": -1}, "top_k must be an integer of 0 up, got -1"),
        ({"top_p": 0.0}, "top_p must be a number above 0.0 to 1.0, got 0.0"),
        ({"top_p": 1.1}, "top_p .* got 1.1"),
        ({"min_p": 1.1}, "min_p must be a number from 0.0 to 1.0, got 1.1"),
        ({"repetition_penalty": 0}, "repetition_penalty must be a number above 0.0 to 100.0, got 0"),
        ({"seed": -1}, "seed must be an integer from 0 to 9223372036854775807, got -1"),
        ({"stop": "end"}, "stop must be a tuple of strings with characters, got 'end'"),
        ({"stop": ("",)}, "stop must be strings with characters"),
        ({"eos_token_ids": (1.0,)}, "eos_token_ids must be token ids, integers of 0 up, got 1.0"),
        ({"eos_token_ids": (-1,)}, "eos_token_ids must be token ids, integers of 0 up, got -1"),
        ({"logprobs": 1}, "logprobs must be True or False, got 1"),
        ({"prompt_logprobs": 2}, "prompt_logprobs must be True or False, got 2"),
        ({"num_top_logprobs": 21, "logprobs": True}, "num_top_logprobs must be an integer from 0 to 20, got 21"),
        ({"num_top_logprobs": 2}, "num_top_logprobs must be 0 without logprobs, got 2"),
        ({"logit_bias": ((5, 101),)}, "logit_bias must be .token, number from -100 to 100. pairs, got .5, 101."),
        ({"logit_bias": ((5, float("nan")),)}, "logit_bias must be .* pairs, got .5, nan."),
        ({"logit_bias": ((-1, 0),)}, "logit_bias must be .* pairs, got .-1, 0."),
        ({"num_beams": 2, "prompt_logprobs": True}, "prompt_logprobs must be False with beam search"),
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
        ({"bad_words_ids": ((),)}, "bad_words_ids must be lists of token ids, none empty"),
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
