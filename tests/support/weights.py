"""Random weights that make a small model behave like a trained one in scale."""

import torch


def random_weights(model: torch.nn.Module, seed: int = 0) -> None:
    """Weights large enough that activations are of unit scale and attention is far from uniform."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            fan_in = parameter.shape[1]
            scale = 0.5 if "embeddings" in name else 1.5 * fan_in**-0.5
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * scale)
        else:
            parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
