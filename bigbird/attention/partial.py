"""Attention of some queries to some keys, its gradient, and the merge of results over disjoint keys.

`attend` returns the log-sum-exp of the scores beside the context: two results over different keys are merged by
`merge_`, in place. `attend_backward` takes the *merged* context and log-sum-exp, which makes the gradient of each part
exact without keeping anything of a part. On CPU torch's fused kernels do both; other devices, dropout and single
queries in float32, where products are twice as fast as the kernel, are written out, some scores at a time.

Knows neither rows nor plans. Legend: N runs, H heads, Q queries, K keys, D head dim.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from bigbird.dropout import Drops

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

SCORES_AT_ONCE = {"cpu": 2**20, "cuda": 2**27}
"""Scores that the written-out form holds at a time: on CPU they stay in the cache."""


def lse_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type of scores and log-sum-exps: float32, or float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None = None,
    *,
    causal: bool = False,
    dropout: Drops | None = None,
) -> tuple[Tensor, Tensor]:
    """query (N, H, Q, D); key, value (N, H, K, D) -> context (N, H, Q, D), log-sum-exp (N, H, Q, 1).

    bias: added to the scores, broadcast to (N, H, Q, K). causal: query i reads keys 0 to i. No gradient.
    """
    if dropout is None and _is_fused(query, key):
        context, lse = _flash(query, key, value, is_causal=causal, attn_mask=_expanded(bias, query, key))
        return context, lse.unsqueeze(-1)
    scaled = query * query.shape[-1] ** -0.5
    if dropout is None and query.shape[2] == 1:  # a step of decoding: the fewest operations
        weights, sums, lse = _weights(_scores(scaled, key, bias, 0 if causal else None))
        return (weights.to(value.dtype) @ value).div_(sums), lse
    context = query.new_empty(query.shape)
    lse = query.new_empty((*query.shape[:3], 1), dtype=lse_dtype(query.dtype))
    for runs, queries, keys in _cuts(query, key, causal):
        k, v = key[runs, :, keys], value[runs, :, keys]
        scores = _scores(
            scaled[runs, :, queries], k, _cut(bias, runs, queries, keys), queries.start if causal else None
        )
        weights, sums, lse[runs, :, queries] = _weights(scores)
        if dropout is not None:
            weights *= dropout.draw(weights)
            sums = sums * dropout.keep
        context[runs, :, queries] = (weights.to(v.dtype) @ v).div_(sums)
    return context, lse


def attend_backward(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    context: Tensor,
    lse: Tensor,
    *,
    causal: bool,
    dropout: Drops | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """This part's gradients of query, key and value; gradient, context (N, H, Q, D) and lse (N, H, Q, 1) are those of
    the merged result. dropout: drawing anew what `attend` drew."""
    if dropout is None and _is_fused(query, key):
        mask = _expanded(bias, query, key)
        found: tuple[Tensor, Tensor, Tensor] = _flash_backward(
            gradient, query, key, value, context, lse.squeeze(-1).contiguous(), 0.0, causal, attn_mask=mask
        )
        return found
    d_query = query.new_empty(query.shape)
    d_key, d_value = key.new_zeros(key.shape), value.new_zeros(value.shape)
    pulled = (gradient.to(lse.dtype) * context).sum(-1, keepdim=True)
    scaled = query * query.shape[-1] ** -0.5
    if dropout is not None:
        gradient = gradient / dropout.keep
    for runs, queries, keys in _cuts(query, key, causal):
        q, g = (_together(states[runs, :, queries]) for states in (scaled, gradient))
        k, v = (_together(states[runs, :, keys]) for states in (key, value))
        weights = _scores(q, k, _cut(bias, runs, queries, keys), queries.start if causal else None)
        weights.sub_(lse[runs, :, queries]).exp_()
        d_weights = (g @ v.transpose(2, 3)).to(lse.dtype)
        applied = weights
        if dropout is not None:
            kept = dropout.draw(weights)
            d_weights *= kept
            applied = kept.mul_(weights)
        d_value[runs, :, keys] += applied.to(g.dtype).transpose(2, 3) @ g
        d_scores = d_weights.sub_(pulled[runs, :, queries]).mul_(weights).to(q.dtype)
        d_query[runs, :, queries] = d_scores @ k
        d_key[runs, :, keys] += d_scores.transpose(2, 3) @ q
    d_query *= query.shape[-1] ** -0.5
    return d_query, d_key, d_value


def merge_(context: Tensor, lse: Tensor, new: Tensor, new_lse: Tensor) -> None:
    """Into a result and its log-sum-exp, those of the same queries over other keys."""
    context.lerp_(new, torch.sigmoid(new_lse - lse).to(context.dtype))
    torch.logaddexp(lse, new_lse, out=lse)


def _is_fused(query: Tensor, key: Tensor) -> bool:
    """Whether torch's kernel takes it. A single float32 query is faster written out, where no key is copied for it."""
    if query.device.type != "cpu":
        return False
    flattens = key.shape[0] == 1 or key.stride(0) == key.shape[1] * key.stride(1)
    return not (query.shape[2] == 1 and query.dtype == torch.float32 and flattens)


def _expanded(bias: Tensor | None, query: Tensor, key: Tensor) -> Tensor | None:
    """The bias as the fused kernel wants it: (N, H, Q, K), without copying it out."""
    return None if bias is None else bias.to(query.dtype).expand(*query.shape[:3], key.shape[2])


def _cuts(query: Tensor, key: Tensor, causal: bool) -> Iterator[tuple[slice, slice, slice]]:
    """Runs, queries and the keys they may read, of about SCORES_AT_ONCE scores each."""
    runs, heads, num_queries, num_keys = *query.shape[:3], key.shape[2]
    limit = SCORES_AT_ONCE.get(query.device.type, 2**27)
    run_step = max(1, limit // (heads * num_queries * num_keys))
    step = num_queries if run_step > 1 else max(1, min(num_queries, limit // (heads * num_keys)))
    for run in range(0, runs, run_step):
        for start in range(0, num_queries, step):
            end = min(start + step, num_queries)
            yield slice(run, run + run_step), slice(start, end), slice(0, end if causal else num_keys)


def _together(states: Tensor) -> Tensor:
    """The same (N, H, S, D), its runs and heads one axis in memory: copied once, if at all, and not in each product."""
    together: Tensor = states.flatten(0, 1).unflatten(0, states.shape[:2])
    return together


def _cut(bias: Tensor | None, runs: slice, queries: slice, keys: slice) -> Tensor | None:
    if bias is None:
        return None
    wanted = (runs if bias.shape[0] > 1 else slice(None), slice(None), queries if bias.shape[2] > 1 else slice(None))
    cut: Tensor = bias[(*wanted, keys)]
    return cut


def _weights(scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores (N, H, Q, K), overwritten -> weights before their division by their sums; these; the log-sum-exp."""
    largest = scores.amax(-1, keepdim=True)
    weights = scores.sub_(largest).exp_()
    sums = weights.sum(-1, keepdim=True)
    return weights, sums, largest + sums.log()


def _scores(scaled: Tensor, key: Tensor, bias: Tensor | None, first_query: int | None) -> Tensor:
    """Scores (N, H, Q, K), float32 at least; first_query: the first of causal queries, None where none is causal."""
    scores: Tensor = (scaled @ key.transpose(2, 3)).to(lse_dtype(key.dtype))
    if bias is not None:
        scores += bias
    if first_query is not None:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(first_query + 1)
        scores.masked_fill_(later, -torch.inf)
    return scores
