"""What the demo family's models are, and what their weights begin from.

Choices that matter at this size (hidden 128): weights start with deviation hidden_size ** -0.5, positions as
sinusoids, word vectors and the output bias from statistics of the corpus, the first layers by reading the neighbours.
Knows no training.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from bigbird.config import BigBirdConfig
from bigbird.heads import BigBirdForMaskedLM
from bigbird.layers import SelfAttention

SEP = 5
# layer: the neighbour each of its heads begins by reading
NEIGHBOURS = {0: (-1, 1, -2, 2), 1: (-1, 1, -3, 3)}
SMALL = 0.25


def demo_config(vocab_size: int = 8192) -> BigBirdConfig:
    """2.8 million parameters: what fits in a repository and runs anywhere."""
    return BigBirdConfig(
        vocab_size=vocab_size,
        hidden_size=128,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=4096,
        block_size=256,  # rows of up to 1,792 tokens are read densely, longer ones 768 tokens around and both ends
        num_random_blocks=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=128**-0.5,
        sep_token_id=SEP,
    )


def rates(width: int) -> Tensor:
    """(width / 2,): radians a position, from 2.5 (so that neighbours differ plainly) down by a factor of 10,000."""
    return 2.5 * torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))


def sinusoids(num_positions: int, width: int) -> Tensor:
    """(num_positions, width): sine and cosine in turn, of unit variance; only the start of the table."""
    angles = torch.arange(num_positions)[:, None] * rates(width)
    return 2**0.5 * torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


def look_at_neighbour(attention: SelfAttention, head: int, distance: int, gain: float = 3.0) -> None:
    """Start a head so that it reads the token `distance` further on.

    Its key is the fastest sinusoids of the position as they are, its query the same turned by the distance. Without
    such a start a model this small spends the first million tokens on finding its neighbours.
    """
    width = attention.query.in_features
    size = width // attention.num_heads
    turn = rates(width)[: size // 2] * distance
    key, query = torch.eye(size, width), torch.zeros(size, width)
    sine, cosine = torch.arange(0, size, 2), torch.arange(1, size, 2)
    query[sine, sine] = query[cosine, cosine] = turn.cos()
    query[sine, cosine], query[cosine, sine] = turn.sin(), -turn.sin()
    rows = slice(head * size, (head + 1) * size)
    with torch.no_grad():
        attention.key.weight[rows] = key * gain**0.5
        attention.query.weight[rows] = query * gain**0.5


def word_vectors(stream: np.ndarray, vocab_size: int, width: int, window: int = 2) -> Tensor:
    """(vocab_size, width), rows of norm 1: how tokens keep company within `window` of each other in the stream.

    The leading part of the positive pointwise mutual information matrix (Levy and Goldberg, 2014).
    """
    pairs = np.concatenate([stream[:-gap] * vocab_size + stream[gap:] for gap in range(1, window + 1)])
    counts = torch.from_numpy(np.bincount(pairs, minlength=vocab_size**2).reshape(vocab_size, vocab_size)).float()
    counts += counts.T.clone()
    share = counts.sum(dim=0).clamp(min=1) / counts.sum()
    information = (counts / counts.sum() / share / share[:, None]).log_().clamp_(min=0)
    vectors, strength, _ = torch.svd_lowrank(information, q=width, niter=2)
    vectors = vectors * strength.sqrt() + 1e-4 * torch.randn(vocab_size, width)
    return vectors / vectors.norm(dim=1, keepdim=True)


def new_model(stream: np.ndarray) -> BigBirdForMaskedLM:
    """A model that starts from statistics of the token stream, so that few tokens have to teach it more.

    Word vectors from co-occurrence; the output bias from frequencies (else all states first become alike to express
    them, and part slowly); positions as sinusoids, and heads of the first layers that read the neighbours; residual
    branches other than those small (else each layer's noise halves the signal of the one before).
    """
    config = demo_config()
    model = BigBirdForMaskedLM(config)
    counts = torch.from_numpy(np.bincount(stream, minlength=config.vocab_size)) + 1.0
    embeddings = model.bert.embeddings
    with torch.no_grad():
        model.cls.predictions.bias.copy_((counts / counts.sum()).log())
        embeddings.word_embeddings.weight.copy_(word_vectors(stream, config.vocab_size, config.hidden_size))
        table = embeddings.position_embeddings.weight
        table.copy_(sinusoids(*table.shape) * config.initializer_range)
        embeddings.token_type_embeddings.weight.zero_()
        for number, layer in enumerate(model.bert.encoder.layer):
            layer.output.dense.weight.mul_(SMALL)
            if number not in NEIGHBOURS:
                layer.attention.output.dense.weight.mul_(SMALL)
    for number, distances in NEIGHBOURS.items():
        for head, distance in enumerate(distances):
            look_at_neighbour(model.bert.encoder.layer[number].attention.self, head, distance)
    return model.eval()
