"""Processed distributions are those of transformers; draws follow them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bigbird.generation.options import GenerationOptions
from bigbird.generation.sampler import draw, penalise_repetition, warp

transformers = pytest.importorskip("transformers")


def random_logits(rows: int, vocabulary: int, seed: int, scale: float = 3.0) -> torch.Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * scale


def probabilities(logits: torch.Tensor, options: GenerationOptions) -> torch.Tensor:
    return torch.stack([warp(row, options) for row in logits]).softmax(-1)


def drawn(scores: torch.Tensor, chances: torch.Tensor) -> torch.Tensor:
    """How often each token is drawn."""
    return torch.tensor([draw(scores, chance) for chance in chances.tolist()]).bincount(minlength=len(scores))


def their_probabilities(logits: torch.Tensor, options: GenerationOptions) -> torch.Tensor:
    processors = transformers.LogitsProcessorList()
    processors.append(transformers.TemperatureLogitsWarper(float(options.temperature)))
    if options.top_k:
        processors.append(transformers.TopKLogitsWarper(options.top_k))
    if options.top_p < 1:
        processors.append(transformers.TopPLogitsWarper(options.top_p))
    if options.min_p:
        processors.append(transformers.MinPLogitsWarper(options.min_p))
    return processors(torch.zeros(len(logits), 1, dtype=torch.long), logits).softmax(-1)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    vocabulary=st.sampled_from([2, 7, 300, 3000]),
    scale=st.sampled_from([0.05, 1.0, 4.0]),
    temperature=st.sampled_from([0.3, 1.0, 1.7]),
    top_k=st.sampled_from([0, 1, 5, 2999, 10_000]),
    top_p=st.sampled_from([0.01, 0.5, 0.9, 0.999, 1.0]),
    min_p=st.sampled_from([0.0, 0.02, 0.5, 1.0]),
)
def test_distributions_equal_transformers(seed, vocabulary, scale, temperature, top_k, top_p, min_p):
    options = GenerationOptions(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    logits = random_logits(3, vocabulary, seed, scale)
    ours, theirs = probabilities(logits, options), their_probabilities(logits, options)
    # Sums in another order may move a token that lies exactly at top_p's edge; it then moves on both sides.
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("penalty", [0.7, 1.0, 1.3])
def test_repetition_penalty_equals_transformers(penalty: float):
    logits = random_logits(4, 50, seed=1)
    seen_ids = torch.randint(0, 50, (4, 12), generator=torch.Generator().manual_seed(2))
    theirs = transformers.RepetitionPenaltyLogitsProcessor(penalty)(seen_ids, logits.clone())
    torch.testing.assert_close(penalise_repetition(seen_ids, logits, penalty), theirs)


def test_tokens_as_likely_as_the_last_that_stays_stay_with_it():
    logits = torch.tensor([[1.0, 2.0, 1.0, 1.0, 0.0]])
    for options in (GenerationOptions(temperature=1.0, top_k=2), GenerationOptions(temperature=1.0, top_p=0.6)):
        assert torch.isfinite(warp(logits[0], options)).tolist() == [True, True, True, True, False]
    top_k = GenerationOptions(temperature=1.0, top_k=2)
    torch.testing.assert_close(probabilities(logits, top_k), their_probabilities(logits, top_k))


@pytest.mark.parametrize("options", [{"top_k": 7}, {"top_p": 0.7}, {"top_k": 9, "top_p": 0.7}, {"min_p": 0.1}, {}])
def test_draws_among_candidates_follow_transformers_distribution(options: dict[str, float]):
    logits = random_logits(1, 40, seed=8, scale=1.0)
    uniforms = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    asked = GenerationOptions(temperature=0.9, **options)
    counts = drawn(warp(logits[0], asked), uniforms)
    torch.testing.assert_close(counts / 20_000, their_probabilities(logits, asked)[0], atol=2e-4, rtol=0)


def test_draws_follow_the_distribution():
    uniforms = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    counts = drawn(torch.log(torch.tensor([0.5, 0.0, 0.2, 0.3, 0.0])), uniforms)
    assert counts.tolist() == [5000, 0, 2000, 3000, 0]


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53])
def test_the_ends_of_the_unit_interval_draw_possible_tokens(uniform: float):
    assert draw(torch.tensor([-torch.inf, 0.0, 1.0, -torch.inf]), uniform) == (1 if uniform == 0 else 2)


def test_rounding_does_not_draw_past_the_last_possible_token():
    scores = random_logits(500, 40, seed=6)
    scores[:, 35:] = -torch.inf
    assert max(draw(row, 1 - 2**-53) for row in scores) < 35


@pytest.mark.parametrize("temperature", [1e-40, 5e-324])
def test_tiny_temperatures_are_greedy_and_finite(temperature):
    logits = random_logits(3, 100, seed=5, scale=30)
    options = GenerationOptions(temperature=temperature)
    assert [draw(warp(row, options), 0.999) for row in logits] == logits.argmax(-1).tolist()
    assert all(torch.isfinite(warp(row, options).max()) for row in logits)
