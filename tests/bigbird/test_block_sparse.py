"""The fast path against the dense oracle: values, gradients, masks, dropout, both arithmetic paths."""

from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bigbird.attention import block_sparse, partial
from bigbird.attention.block_sparse import BlockSparseAttention
from bigbird.attention.plan import AttentionPlan
from bigbird.attention.reference import DenseAttention
from bigbird.config import BigBirdConfig

HEADS, DIM = 2, 8


def make_plan(lengths, *, seeded=False, is_decoder=False, num_random_blocks=1, block_size=8):
    config = BigBirdConfig(
        hidden_size=HEADS * DIM,
        num_attention_heads=HEADS,
        block_size=block_size,
        num_random_blocks=num_random_blocks,
        is_decoder=is_decoder,
    )
    return AttentionPlan(config, tuple(lengths), seeded)


def projections(total, seed=0):
    """query, key and value as a fused projection gives them: strided views of one tensor."""
    fused = torch.randn(total, 3, HEADS, DIM, generator=torch.Generator().manual_seed(seed)) * 2
    return fused.requires_grad_()


def run(attention, fused, attended, layer=1):
    """Context and gradient, with masked queries left out of both, since their result means nothing."""
    fused.grad = None
    context = attention(layer, *fused.unbind(1))
    weights = torch.randn(context.shape, generator=torch.Generator().manual_seed(9))
    kept = context if attended is None else context * attended[:, None, None]
    (kept * weights).sum().backward()
    return kept.detach(), fused.grad.clone()


lengths = st.lists(st.sampled_from([1, 7, 8, 40, 55, 56, 57, 64, 65, 100, 130]), min_size=1, max_size=4)


@given(lengths, st.booleans(), st.booleans(), st.booleans(), st.sampled_from([1, 60, 2048]), st.integers(0, 2**31))
def test_block_sparse_equals_the_dense_oracle_with_gradients(lengths, seeded, is_decoder, holes, keys_at_once, seed):
    plan = make_plan(lengths, seeded=seeded, is_decoder=is_decoder)
    total = sum(lengths)
    attended = torch.rand(total, generator=torch.Generator().manual_seed(seed)) > 0.3 if holes else None
    fused = projections(total, seed)
    dense, dense_gradient = run(DenseAttention(plan, attended), fused, attended)
    with mock.patch.object(block_sparse, "KEYS_AT_ONCE", keys_at_once):
        sparse, sparse_gradient = run(BlockSparseAttention(plan, attended), fused, attended)
    torch.testing.assert_close(sparse, dense, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(sparse_gradient, dense_gradient, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("holes", [False, True])
def test_a_random_block_that_is_the_short_last_one_ends_with_its_row(holes):
    plan = make_plan([970, 70, 1001], seeded=True, num_random_blocks=3, block_size=64)  # 16 blocks: the paper's plan
    part, _ = plan.random_parts(1)
    assert (part.blocks == 15).any()
    total = sum(plan.lengths)
    attended = torch.rand(total, generator=torch.Generator().manual_seed(1)) > 0.3 if holes else None
    fused = projections(total)
    dense, dense_gradient = run(DenseAttention(plan, attended), fused, attended)
    sparse, sparse_gradient = run(BlockSparseAttention(plan, attended), fused, attended)
    torch.testing.assert_close(sparse, dense, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(sparse_gradient, dense_gradient, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("seeded", [False, True])
@pytest.mark.parametrize("is_decoder", [False, True])
def test_the_written_out_path_equals_the_fused_one(seeded, is_decoder, monkeypatch):
    plan = make_plan([100, 30, 57], seeded=seeded, is_decoder=is_decoder)
    fused = projections(187)
    expected = run(BlockSparseAttention(plan), fused, None)
    monkeypatch.setattr(partial, "_is_fused", lambda query, key: False)
    for got, wanted in zip(run(BlockSparseAttention(plan), fused, None), expected, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)


def test_a_row_gives_the_same_bits_alone_and_between_others():
    between = projections(330).detach()
    alone = between[100:230]
    context = BlockSparseAttention(make_plan([100, 130, 100]))(0, *between.unbind(1))[100:230]
    assert torch.equal(context, BlockSparseAttention(make_plan([130]))(0, *alone.unbind(1)))


def test_no_tensor_of_length_squared_is_made():
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, tuple) else (result,):
                if isinstance(tensor, torch.Tensor):
                    largest = max(largest, tensor.untyped_storage().nbytes() // 4)
            return result

    length = 2000
    fused = projections(length)
    with Watch():
        BlockSparseAttention(make_plan([length]))(0, *fused.unbind(1)).sum().backward()
    assert largest < length * length / 20


@pytest.mark.parametrize("seeded", [False, True])
def test_float64_gradients_are_those_of_finite_differences(seeded):
    plan = make_plan([60, 9], seeded=seeded)
    states = [part.detach().double().requires_grad_() for part in projections(69).unbind(1)]
    attended = torch.arange(69) % 7 != 3
    attention = BlockSparseAttention(plan, attended)
    assert attention(1, *states).dtype == torch.float64
    torch.autograd.gradcheck(lambda *inputs: attention(1, *inputs), states, fast_mode=True)
    dense = DenseAttention(plan, attended)(1, *states)
    torch.testing.assert_close(attention(1, *states)[attended], dense[attended], atol=1e-12, rtol=1e-12)


def test_a_second_derivative_is_refused_rather_than_wrong():
    fused = projections(60)
    context = BlockSparseAttention(make_plan([60]))(0, *fused.unbind(1))
    (first,) = torch.autograd.grad(context.square().sum(), fused, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@pytest.mark.parametrize("seeded", [False, True])
def test_dropped_weights_give_the_mean_variance_and_gradients_of_dense_dropout(seeded):
    plan = make_plan([70, 20], seeded=seeded)
    fused = projections(90)
    draws = 250

    def moments(attention):
        """Mean and standard error over draws: of the contexts, their squares, and the gradient of the squares' sum."""
        drawn = []
        for _ in range(draws):
            context = attention(1, *fused.unbind(1))
            (gradient,) = torch.autograd.grad(context.square().sum(), fused)
            drawn.append(torch.stack([context.detach(), context.detach().square(), *gradient.unbind(1)]))
        stacked = torch.stack(drawn)
        return stacked.mean(0), stacked.std(0) / draws**0.5

    torch.manual_seed(0)
    (ours, error), (dense, dense_error) = (
        moments(kind(plan, dropout=0.3)) for kind in (BlockSparseAttention, DenseAttention)
    )
    apart = (ours - dense) / (error.square() + dense_error.square()).sqrt().clamp(min=1e-4)
    assert apart.abs().max() < 6  # in standard errors; of a normal variable the mean is 0.8
    assert (apart.abs().flatten(1).mean(1) < 0.95).all()


def test_with_dropout_the_gradient_is_that_of_what_was_drawn():
    plan = make_plan([70, 20], seeded=True)
    fused = projections(90).detach().double().requires_grad_()

    def attend(states):
        torch.manual_seed(4)
        return BlockSparseAttention(plan, dropout=0.3)(1, *states.unbind(1))

    torch.autograd.gradcheck(attend, fused, fast_mode=True)


def test_seeded_attention_forwards_and_backwards_asks_the_device_for_no_value():
    plan = make_plan([130, 64, 7], seeded=True)
    fused = torch.empty(sum(plan.lengths), 3, HEADS, DIM, device="meta", requires_grad=True)
    attention = BlockSparseAttention(plan)  # on "meta", whatever reads a value raises
    for layer in range(2):
        attention(layer, *fused.unbind(1)).sum().backward()
    assert fused.grad.shape == fused.shape
