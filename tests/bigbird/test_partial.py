"""The one attention core: context, log-sum-exp, merge and gradients, in every form and type, against plain softmax."""

import pytest
import torch

from bigbird.attention import partial
from bigbird.attention.partial import attend, attend_backward, merge_

SHAPE = (3, 2, 7, 8)


def plain(query, key, value, bias=None, causal=False):
    scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5
    if bias is not None:
        scores = scores + bias
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1).bool(), -torch.inf)
    return scores.softmax(-1) @ value, scores.logsumexp(-1, keepdim=True)


@pytest.fixture(params=["fused", "written out", "written out, few scores at once"])
def form(request, monkeypatch):
    if request.param != "fused":
        monkeypatch.setattr(partial, "_is_fused", lambda query, key: False)
    if "few" in request.param:
        monkeypatch.setitem(partial.SCORES_AT_ONCE, "cpu", 40)


def states(num_keys, dtype, seed=0):
    draw = torch.Generator().manual_seed(seed)
    sizes = (SHAPE, (*SHAPE[:2], num_keys, 8), (*SHAPE[:2], num_keys, 8))
    return [torch.randn(size, generator=draw, dtype=torch.float64).to(dtype).requires_grad_() for size in sizes]


BIASES = {
    "none": lambda n: None,
    "by key": lambda n: torch.randn(1, 1, 1, n, generator=torch.Generator().manual_seed(1)),
    "by run": lambda n: torch.randn(3, 1, 1, n, generator=torch.Generator().manual_seed(2)),
    "by head": lambda n: torch.randn(3, 2, 1, n, generator=torch.Generator().manual_seed(3)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", BIASES)
@pytest.mark.parametrize(("num_keys", "causal"), [(7, True), (7, False), (12, False)])
def test_context_log_sum_exp_and_gradients_are_those_of_plain_softmax(form, dtype, kind, num_keys, causal):
    query, key, value = states(num_keys, dtype)
    bias = BIASES[kind](num_keys)
    bias = None if bias is None else bias.to(dtype)
    context, lse = plain(query, key, value, bias, causal)
    gradient = torch.linspace(-1, 1, context.numel(), dtype=dtype).view_as(context)
    expected = [context, lse, *torch.autograd.grad((context * gradient).sum(), [query, key, value])]
    with torch.no_grad():
        found = attend(query, key, value, bias, causal=causal)
        found += attend_backward(gradient, query, key, value, bias, *found, causal=causal, dropout=None)
    close = 1e-5 if dtype == torch.float32 else 1e-12
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other.detach(), atol=close, rtol=close)


@torch.no_grad()
def test_results_over_disjoint_keys_merge_into_the_result_over_all(form):
    query, key, value = states(12, torch.float32)
    context, lse = attend(query, key[:, :, :5], value[:, :, :5])
    merge_(context, lse, *attend(query, key[:, :, 5:], value[:, :, 5:]))
    for one, other in zip((context, lse), plain(query, key, value), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_single_float32_queries_give_the_same_whether_keys_lie_together_or_not():
    query, key, value = states(12, torch.float32)
    apart = key.transpose(1, 2).contiguous().transpose(1, 2)
    for one, other in zip(attend(query[:, :, :1], key, value), attend(query[:, :, :1], apart, value), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)
