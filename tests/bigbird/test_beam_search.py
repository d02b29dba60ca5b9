"""Beam search, processed tokens and cross-attention give the tokens of transformers."""

from typing import Any

import pytest
import torch
from mended_transformers import mended
from tiny_decoders import TINY, prompts_of, their_tokens, with_theirs

from bigbird.generation.generate import GenerationOptions, generate


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
