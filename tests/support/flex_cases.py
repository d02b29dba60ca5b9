"""Batches for the compiled attention, on any device, and what the dense oracle makes of them."""

import torch

from bigbird.attention.flex import FlexAttention
from bigbird.attention.plan import AttentionPlan
from bigbird.attention.reference import DenseAttention
from bigbird.attention.tiles import layout
from bigbird.config import BigBirdConfig

CASES = ("one row", "mixed", "masked", "decoder", "masked decoder")
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


def packed_case(name, head_dim=16):
    """Configuration, lengths, and whether tokens are masked."""
    config = BigBirdConfig(
        hidden_size=2 * head_dim,
        num_attention_heads=2,
        block_size=16,
        num_random_blocks=1,
        is_decoder="decoder" in name,
    )
    return config, (401,) if name == "one row" else (300, 17, 113, 401, 112), "masked" in name


def flex_error(name, dtype, head_dim, device="cpu", tolerance=None):
    """Raises where FlexAttention differs from the dense oracle, or leaves something that is not finite in gaps."""
    config, lengths, holes = packed_case(name, head_dim)
    starts, num_tokens = layout(config, lengths)
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():  # the tensors too: others would be another graph
        states = torch.randn(num_tokens, 3, 2, head_dim, generator=generator).to(device, dtype)
        attended = (torch.rand(num_tokens, generator=generator) > 0.3).to(device) if holes else None
        flex = FlexAttention(AttentionPlan(config, lengths, False, starts), attended)(0, *states.unbind(1))
    assert flex.isfinite().all()
    rows = torch.cat([torch.arange(start, start + n) for start, n in zip(starts, lengths, strict=True)]).to(device)
    shown = None if attended is None else attended[rows]
    dense = DenseAttention(AttentionPlan(config, lengths, False), shown)(0, *states[rows].float().unbind(1))
    shown = slice(None) if shown is None else shown
    tolerance = tolerance or TOLERANCES[dtype]
    torch.testing.assert_close(flex[rows][shown].float(), dense[shown], atol=tolerance, rtol=tolerance)
