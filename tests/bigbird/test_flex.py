"""The CUDA attention's tiles and masks against the plan's dense statement; nothing is compiled here."""

import tracemalloc

import numpy as np
import pytest
import torch
from flex_cases import packed_case

from bigbird.attention.flex import FlexAttention, block_mask
from bigbird.attention.plan import AttentionPlan
from bigbird.attention.tiles import block_size, layout, read_tiles
from bigbird.config import BigBirdConfig

LENGTHS = (300, 17, 113, 401, 112, 112, 1, 240)


def listed(counts, blocks):
    """(L, L): how often each tile is listed."""
    times = torch.zeros(blocks.shape[2:], dtype=torch.int64)
    for line, count in enumerate(counts[0, 0].tolist()):
        times[line].index_add_(0, blocks[0, 0, line, :count].long(), torch.ones(count, dtype=torch.int64))
    return times


def read_by_kernel(flex, num_tokens):
    """(T, T): how often the kernel reads each pair, from its lists and its mask; and what its scores gain."""
    tensors = flex.tensors(num_tokens, torch.device("cpu"))
    mask = block_mask(tensors, flex.block_size)
    assert tuple(mask.shape) == (1, 1, num_tokens, num_tokens)
    q, k = torch.meshgrid(torch.arange(num_tokens), torch.arange(num_tokens), indexing="ij")
    block_q, block_k = q // flex.block_size, k // flex.block_size
    part = listed(mask.kv_num_blocks, mask.kv_indices)[block_q, block_k]
    whole = listed(mask.full_kv_num_blocks, mask.full_kv_indices)[block_q, block_k]
    zero = torch.zeros((), dtype=torch.int64)
    times = part * mask.mask_mod(zero, zero, q, k) + whole
    return times, tensors.extra[q] * tensors.first_block[k]


def read_by_plan(plan, num_tokens, attended):
    """The same from the plan's own counts, by row. Gaps read nothing."""
    size = plan.config.block_size
    reads, gains = torch.zeros(num_tokens, num_tokens, dtype=torch.int64), torch.zeros(num_tokens, num_tokens)
    for row, (start, length) in enumerate(zip(plan.starts, plan.lengths, strict=True)):
        block = torch.arange(length) // size
        counts = torch.from_numpy(plan.key_counts(row, 0)[0])[block[:, None], block]
        tokens = slice(start, start + length)
        reads[tokens, tokens] = (counts > 0).long().tril(length if not plan.config.is_decoder else 0)
        gains[tokens, tokens] = counts.clamp(min=1).float().log()
    if attended is not None:
        reads *= attended | torch.eye(num_tokens, dtype=torch.bool)
    return reads, gains


@pytest.mark.parametrize("laid_out", [True, False], ids=["at blocks", "one after another"])
@pytest.mark.parametrize("size", [16, 24, 64])
@pytest.mark.parametrize("kind", ["encoder", "decoder", "masked"])
def test_every_pair_of_the_plan_is_read_once_and_no_other(kind, size, laid_out):
    config = BigBirdConfig(block_size=size, num_random_blocks=1, is_decoder=kind == "decoder")
    lengths = LENGTHS if size < 64 else (1200, 68, 449, 452)
    starts, num_tokens = layout(config, lengths)
    plan = AttentionPlan(config, lengths, seeded=False, starts=starts if laid_out else ())
    attended = torch.rand(num_tokens, generator=torch.manual_seed(0)) > 0.3 if kind == "masked" else None
    times, gains = read_by_kernel(FlexAttention(plan, attended), num_tokens)
    expected, expected_gains = read_by_plan(plan, num_tokens, attended)
    in_rows = torch.zeros(num_tokens, dtype=torch.bool)
    for start, length in zip(plan.starts, lengths, strict=True):
        in_rows[start : start + length] = True
    assert torch.equal(times[in_rows], expected[in_rows])
    torch.testing.assert_close(gains[expected > 0], expected_gains[expected > 0])


def test_rows_of_whole_blocks_need_no_mask():
    config = BigBirdConfig()
    lengths = (4096, 768, 1024, 512, 128)
    starts, num_tokens = layout(config, lengths)
    part, whole = read_tiles(AttentionPlan(config, lengths, False, starts), num_tokens, block_size(config))
    assert part.counts.sum() == 0
    assert whole.counts.max() == 4096 // 64


def test_a_sparse_row_begins_at_a_block_and_other_rows_leave_no_gap():
    starts, num_tokens = layout(BigBirdConfig(), (705, 100, 100, 1000, 30))
    assert starts == (0, 705, 805, 960, 1960)
    assert num_tokens == 2048


def test_tiles_of_a_million_tokens_take_memory_in_proportion():
    config = BigBirdConfig()
    draw = np.random.default_rng(0)
    lengths = tuple(np.minimum(4096, draw.lognormal(6.5, 1.0, 970).astype(int) + 16).tolist())
    starts, num_tokens = layout(config, lengths)
    assert num_tokens > 900_000
    tracemalloc.start()
    lists = read_tiles(AttentionPlan(config, lengths, False, starts), num_tokens, 64)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(of.flat.nbytes for of in lists) < 12 * num_tokens
    assert peak < 40 * num_tokens  # a square of this axis is 270 bytes a token, in one byte an entry


def test_layouts_of_different_batches_share_one_graph_of_shapes():
    config, lengths, _ = packed_case("mixed")
    shapes = set()
    for chosen in (lengths, lengths[:1], (16,) * 40):
        starts, num_tokens = layout(config, chosen)
        tensors = FlexAttention(AttentionPlan(config, chosen, False, starts)).tensors(num_tokens, torch.device("cpu"))
        shapes |= {(name, tensor.dim(), tensor.dtype) for name, tensor in tensors._asdict().items()}
        assert all(tensor.shape[-1] > 1 for tensor in tensors)
    assert len(shapes) == len(tensors)
