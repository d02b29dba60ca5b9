"""Vectors as clients ask for them: shortened, of length 1, as base64."""

from __future__ import annotations

import base64
import math
import struct

from serving.errors import ServingError


def shortened(vector: list[float], dimensions: int | None, *, unit: bool) -> list[float]:
    """The first `dimensions` numbers, None for all; unit: brought to length 1 again.

    Raises ServingError where the vector has fewer.
    """
    if dimensions is None:
        return vector
    if dimensions > len(vector):
        raise ServingError(
            "invalid_input", f"dimensions: {dimensions}, the model's vectors have {len(vector)}", param="dimensions"
        )
    return of_unit_length(vector[:dimensions]) if unit else vector[:dimensions]


def of_unit_length(vector: list[float]) -> list[float]:
    """The vector's direction; a vector of zeros as it is."""
    length = math.hypot(*vector)
    return [number / length for number in vector] if length else vector


def base64_of(vector: list[float]) -> str:
    """float32 numbers, little-endian, as OpenAI and text-embeddings-inference send them."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
