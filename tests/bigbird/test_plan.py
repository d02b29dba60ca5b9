"""The plan against transformers' own draws and a reading of the paper's rules, block by block."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bigbird.attention.plan import AttentionPlan, Part, Span, seeded_random_blocks
from bigbird.config import BigBirdConfig


def config(block_size: int = 16, num_random_blocks: int = 2, **other: object) -> BigBirdConfig:
    return BigBirdConfig(
        hidden_size=8, num_attention_heads=4, block_size=block_size, num_random_blocks=num_random_blocks, **other
    )


@pytest.mark.parametrize("block_size", [16, 32, 64])
@pytest.mark.parametrize("num_random_blocks", [1, 2, 3])
@pytest.mark.parametrize("length", [768, 1024, 1088, 2048, 3072, 4096])
def test_seeded_blocks_are_those_that_transformers_draws_in_training(block_size, num_random_blocks, length):
    from transformers.models.big_bird import modeling_big_bird as theirs
    from transformers.models.big_bird.configuration_big_bird import BigBirdConfig as TheirConfig

    layer = theirs.BigBirdBlockSparseAttention(
        TheirConfig(block_size=block_size, num_random_blocks=num_random_blocks), seed=5
    ).train()
    np.random.seed(5)  # noqa: NPY002  the generator under test is the legacy one
    if length in (1024, 3072, 4096):
        by_head = [
            layer._bigbird_block_rand_mask(4096, 4096, block_size, block_size, num_random_blocks, last_idx=1024)
            for _ in range(12)
        ]
        drawn = np.stack(by_head)[:, : length // block_size - 2]
    else:
        plan = layer._get_rand_attn_plan(length, block_size, num_random_blocks)
        drawn = np.stack(layer._bigbird_block_rand_mask_with_head(length, length, block_size, block_size, 12, *plan))
    ours = seeded_random_blocks(length // block_size, block_size, num_random_blocks, 12, 4096, 5)
    np.testing.assert_array_equal(ours, drawn)


@pytest.mark.parametrize("block_size", [16, 64, 128, 256, 384])
@pytest.mark.parametrize("num_random_blocks", [1, 2, 3])
def test_every_sparse_length_has_random_blocks_outside_the_window(block_size, num_random_blocks):
    for num_blocks in range(2 * num_random_blocks + 6, 4096 // block_size + 1):
        drawn = seeded_random_blocks(num_blocks, block_size, num_random_blocks, 2, 4096, 0)
        assert drawn.shape == (2, num_blocks - 2, num_random_blocks)
        for head in drawn:
            for query, keys in enumerate(head, start=1):
                assert len({*keys.tolist(), query - 1, query, query + 1, 0}) == num_random_blocks + 3 + (query > 1)


@given(st.integers(7 * 16 + 1, 900))
def test_collapsed_counts_follow_the_paper(length):
    plan = AttentionPlan(config(num_random_blocks=1), (length,), seeded=False)
    blocks = -(-length // 16)
    counts = plan.key_counts(0, layer=0)[0]
    for query in range(blocks):
        for key in range(blocks):
            if query in (0, blocks - 1):
                expected = 1
            else:
                expected = int(abs(query - key) <= 1 or key in (0, blocks - 1)) + (key == 0)
            assert counts[query, key] == expected, (query, key)


def parts_as_counts(plan: AttentionPlan, layer: int) -> np.ndarray:
    """(heads, T, T): how often each query reads each key, by walking the parts token by token."""
    total = sum(plan.lengths)
    heads = plan.config.num_attention_heads
    counts = np.zeros((heads, total, total), dtype=np.int64)

    def tokens(spans: tuple[Span, ...], run: int) -> np.ndarray:
        return np.concatenate([span.start + run * span.step + np.arange(span.size) for span in spans])

    for part in plan.parts:
        assert isinstance(part, Part)
        for run in range(part.queries[0].runs):
            queries, keys = tokens(part.queries, run), tokens(part.keys, run)
            times = np.ones(len(keys), dtype=np.int64)
            times[: part.first_block] += plan.config.num_random_blocks
            counts[:, queries[:, None], keys] += times
    for part in plan.random_parts(layer):
        for head in range(heads):
            for run in range(part.queries.runs):
                for block in part.blocks[head, run]:
                    keys = block * plan.config.block_size + np.arange(plan.config.block_size)
                    keys = part.row_start + keys[keys < part.row_length]
                    counts[head, tokens((part.queries,), run)[:, None], keys] += 1
    return counts


@given(st.lists(st.integers(1, 320), min_size=1, max_size=4), st.booleans())
@example([1015, 20], True)  # by the paper's plan, whose random blocks may be the short last one
def test_the_parts_add_up_to_the_counts(lengths, seeded):
    plan = AttentionPlan(config(num_random_blocks=1), tuple(lengths), seeded)
    walked = parts_as_counts(plan, layer=3)
    expected = np.zeros_like(walked)
    for row, (start, length) in enumerate(zip(plan.starts, lengths, strict=True)):
        block = np.arange(length) // 16
        row_counts = plan.key_counts(row, layer=3)[:, block[:, None], block]
        expected[:, start : start + length, start : start + length] = row_counts
    np.testing.assert_array_equal(walked, expected)


def test_rows_up_to_the_limit_are_read_in_full_and_equal_ones_together():
    plan = AttentionPlan(config(num_random_blocks=1), (112, 112, 113), seeded=False)
    assert plan.parts[0] == Part((Span(0, 112, 2, 112),), (Span(0, 112, 2, 112),))
    assert len(plan.parts) > 2


def test_a_decoder_is_read_in_full_and_causally_at_every_length():
    plan = AttentionPlan(config(is_decoder=True), (900,), seeded=False)
    assert plan.parts == (Part((Span(0, 900, 1, 900),), (Span(0, 900, 1, 900),), causal=True),)
