"""The CUDA path: its block mask against the plan's counts, and its numbers against the oracle.

Runs uncompiled on CPU; the same claims run on a GPU, compiled, by `make gpu-check`.
"""

import pytest
import torch

from bigbird.attention.flex import KERNEL_BLOCK, FlexAttention, kernel_blocks
from bigbird.attention.plan import AttentionPlan
from bigbird.attention.reference import DenseAttention
from bigbird.config import BigBirdConfig

LENGTHS = (300, 17, 113, 401, 112)


def make_plan(*, is_decoder=False):
    config = BigBirdConfig(
        hidden_size=32, num_attention_heads=2, block_size=16, num_random_blocks=1, is_decoder=is_decoder
    )
    return AttentionPlan(config, LENGTHS, seeded=False)


def pairs_that_meet(plan):
    """(T, T) bool from the plan's dense statement."""
    total = sum(LENGTHS)
    reads = torch.zeros(total, total, dtype=torch.bool)
    for row, (start, length) in enumerate(zip(plan.starts, LENGTHS, strict=True)):
        counts = torch.from_numpy(plan.key_counts(row, 0)[0])
        block = torch.arange(length) // 16
        square = counts[block[:, None], block] > 0
        reads[start : start + length, start : start + length] = square.tril() if plan.config.is_decoder else square
    return reads


@pytest.mark.parametrize("is_decoder", [False, True])
def test_kernel_blocks_are_exactly_those_that_share_a_pair(is_decoder):
    plan = make_plan(is_decoder=is_decoder)
    reads = pairs_that_meet(plan)
    padded = -len(reads) % KERNEL_BLOCK
    reads = torch.nn.functional.pad(reads, (0, padded, 0, padded))
    blocks = len(reads) // KERNEL_BLOCK
    expected = reads.view(blocks, KERNEL_BLOCK, blocks, KERNEL_BLOCK).any(3).any(1)
    assert torch.equal(torch.from_numpy(kernel_blocks(plan)), expected)


def check_numbers(device, is_decoder, holes, tolerance):
    plan = make_plan(is_decoder=is_decoder)
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(sum(LENGTHS), 2, 16, generator=generator).to(device) for _ in range(3))
    attended = (torch.rand(sum(LENGTHS), generator=generator) > 0.3).to(device) if holes else None
    flex = FlexAttention(plan, attended)(0, query, key, value)
    dense = DenseAttention(plan, attended)(0, query, key, value)
    shown = slice(None) if attended is None else attended
    torch.testing.assert_close(flex[shown], dense[shown], atol=tolerance, rtol=tolerance)


# Outside a compiled graph FlexAttention warns that it is slow: here that is what is wanted.
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("is_decoder", [False, True])
@pytest.mark.parametrize("holes", [False, True])
def test_flex_equals_the_dense_oracle(is_decoder, holes):
    check_numbers("cpu", is_decoder, holes, 1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("is_decoder", [False, True])
@pytest.mark.parametrize("holes", [False, True])
def test_compiled_flex_equals_the_dense_oracle_on_a_gpu(is_decoder, holes):
    check_numbers("cuda", is_decoder, holes, 1e-2)
