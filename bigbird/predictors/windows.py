"""Documents longer than the model: where to cut them, and how to put the predictions together again.

A document of n tokens is cut into the fewest windows that fit and overlap by at least `overlap` tokens. All
windows of a document have the same length, so none is a stub with little to say: cutting costs no more than
with a short last window, and a mean over windows is fair. Every token is *kept* by exactly one window, the one
in which it has the most context, counted as the distance to the nearer edge of the window.

Knows nothing of text, tokenizers, tasks or tensors; special tokens are the caller's (`room` leaves them out).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from bigbird.errors import InputError
from bigbird.predictors.options import LengthOptions

DEFAULT_OVERLAP = 256


@dataclass(frozen=True)
class Window:
    """Tokens `start` to `stop` of a document, of which `keep_start` to `keep_stop` take this window's prediction."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def num_kept(self) -> int:
        """Tokens whose predictions come from this window."""
        return self.keep_stop - self.keep_start

    @property
    def kept(self) -> slice:
        """The kept tokens, counted from the window's own start."""
        return slice(self.keep_start - self.start, self.keep_stop - self.start)


def cut(num_tokens: int, room: int, overlap: int) -> tuple[Window, ...]:
    """Windows of at most `room` tokens that cover a document of `num_tokens`, neighbours sharing `overlap` or more.

    Returns them from left to right; their kept ranges partition range(num_tokens). Raises ValueError for a
    document without tokens, or an overlap that leaves no way forward.
    """
    if num_tokens < 1 or room < 1 or not 0 <= overlap < room:
        raise ValueError(f"cannot cut {num_tokens} tokens into windows of {room} that overlap by {overlap}")
    if num_tokens <= room:
        return (Window(0, num_tokens, 0, num_tokens),)
    count = -((overlap - num_tokens) // (room - overlap))  # the fewest: ceil((num_tokens - overlap) / stride)
    length = -(-(num_tokens + (count - 1) * overlap) // count)
    starts = [index * (num_tokens - length) // (count - 1) for index in range(count)]
    # Between neighbours the nearer edge is equally far at the middle of what they share: left of it the earlier
    # window knows more, right of it the later one.
    edges = [0, *((left + length - 1 + right) // 2 + 1 for left, right in pairwise(starts))]
    edges.append(num_tokens)
    return tuple(Window(start, start + length, edges[index], edges[index + 1]) for index, start in enumerate(starts))


def cut_document(num_tokens: int, room: int, options: LengthOptions, *, what: str) -> tuple[tuple[Window, ...], bool]:
    """The windows of a document under `options`, and whether its end was cut off.

    room: tokens of the document one window holds. what: how messages call the document.
    Raises InputError where there is no room, or the document is too long and on_long is "error".
    """
    if room < 1:
        raise InputError(f"{what}: the other parts and special tokens leave no room for it in one window")
    if num_tokens <= room:
        return cut(num_tokens, room, 0), False
    if options.on_long == "error":
        raise InputError(
            f'{what} has {num_tokens} tokens, more than the {room} one window holds, and on_long is "error"'
        )
    if options.on_long == "truncate":
        return cut(room, room, 0), True
    overlap = min(DEFAULT_OVERLAP, room // 4) if options.window_overlap is None else options.window_overlap
    if overlap > room // 2:
        raise InputError(
            f"window_overlap is {overlap}, more than half of the {room} tokens of {what} that one window holds"
        )
    return cut(num_tokens, room, overlap), False


def num_doubled(windows: Sequence[Window]) -> int:
    """Tokens that are read a second time because windows overlap."""
    return sum(len(window) - window.num_kept for window in windows)


def stitch(windows: Sequence[Window], arrays: Sequence[np.ndarray]) -> np.ndarray:
    """One row a token of the document, each from the window that keeps it.

    arrays: one a window, (len(window), ...). Returns (num_tokens, ...).
    """
    if len(windows) == 1:
        return arrays[0]
    return np.concatenate([array[window.kept] for window, array in zip(windows, arrays, strict=True)])
