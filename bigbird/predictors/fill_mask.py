"""fill-mask: a text with [MASK] in it; for each, the likeliest tokens.

Only windows that hold a mask are read, and of them only the masks' own states reach the vocabulary.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bigbird.errors import InputError
from bigbird.packing import PackedBatch
from bigbird.predictors.examples import Prepared, Record, TokenizedText, window_rows
from bigbird.predictors.masked_tokens import logits_at, split_like
from bigbird.predictors.options import LengthOptions, require_at_least
from bigbird.predictors.predictor import EncoderPredictor
from bigbird.predictors.windows import plan


@dataclass(frozen=True, kw_only=True)
class FillMaskOptions(LengthOptions):
    """Lengths, and how many candidates a mask gets: top_k, at most the whole vocabulary."""

    top_k: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least("top_k", self.top_k, 1)


@dataclass(frozen=True, eq=False)
class MaskRow:
    """A window's row, the places of its masks (masks,) counted from its start, and how many candidates they get."""

    ids: np.ndarray
    positions: np.ndarray
    top_k: int
    types_from: None = None

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False, kw_only=True)
class PreparedMasks(Prepared):
    """A text's windows that keep a mask, one a row.

    positions: one array a row, the places of the masks it keeps. starts: where each mask stands in the text
    (characters), left to right. top_k: candidates asked for.
    """

    positions: tuple[np.ndarray, ...]
    starts: tuple[int, ...]
    top_k: int


class FillMaskPredictor(EncoderPredictor[FillMaskOptions, PreparedMasks, tuple[np.ndarray, np.ndarray]]):
    """Predictor for BigBirdForMaskedLM. An example is a text."""

    task = "fill-mask"
    options_class = FillMaskOptions
    architectures = ("BigBirdForMaskedLM", "BigBirdForPreTraining")

    def build(self, texts: list[TokenizedText], options: FillMaskOptions) -> PreparedMasks:
        """Cut into windows; `top_k` is read here. A text without a mask is refused."""
        room = options.length_limit(self.config.max_position_embeddings) - 2
        (text,) = texts
        windows, truncated = plan(len(text), room, options, what="text")
        kept = text.head(windows[-1].stop)
        masks = np.flatnonzero(kept.ids == self.tokenizer.mask_token_id)
        if not len(masks):
            where = f"the first {len(kept)} tokens of text" if truncated else "text"
            raise InputError(f"{where}: 0 {self.tokenizer.mask_token} tokens, expected at least one")
        held = [(w, masks[(masks >= w.keep_start) & (masks < w.keep_stop)]) for w in windows]
        held = [(window, places) for window, places in held if len(places)]
        return PreparedMasks(
            rows=window_rows(self.tokenizer, text, [window for window, _ in held]),
            num_tokens=len(kept),
            num_windows=len(windows),
            truncated=truncated,
            positions=tuple(places - window.start + 1 for window, places in held),
            starts=tuple(_mask_start(kept, place) for place in masks.tolist()),
            top_k=min(options.top_k, self.config.vocab_size, len(self.tokenizer)),
        )

    def rows_of(self, item: PreparedMasks) -> list[MaskRow]:
        return [
            MaskRow(row.ids, positions, item.top_k) for row, positions in zip(item.rows, item.positions, strict=True)
        ]

    def read(self, states: Tensor, packed: PackedBatch, rows: list[MaskRow]) -> list[tuple[np.ndarray, np.ndarray]]:
        positions = [row.positions for row in rows]
        top_k = max(row.top_k for row in rows)
        # A vocabulary may be padded beyond the tokenizer's; what has no spelling is no candidate.
        spelled = len(self.tokenizer)
        found = [
            logits.log_softmax(dim=-1)[:, :spelled].topk(top_k)
            for _, logits in logits_at(self.model, states, packed, positions)
        ]
        tokens = split_like(torch.cat([best.indices for best in found]).cpu().numpy(), positions)
        scores = split_like(torch.cat([best.values.exp() for best in found]).cpu().numpy(), positions)
        return [(t[:, : row.top_k], s[:, : row.top_k]) for t, s, row in zip(tokens, scores, rows, strict=True)]

    def gather(
        self, item: PreparedMasks, results: list[tuple[np.ndarray, np.ndarray]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The masks' best tokens (masks, top_k) int64 and their probabilities, float32."""
        tokens, scores = zip(*results, strict=True)
        return np.concatenate(tokens), np.concatenate(scores)

    def decode(self, item: PreparedMasks, output: tuple[np.ndarray, np.ndarray], options: FillMaskOptions) -> Record:
        """{"masks": [{"position", "candidates": [{"token", "token_str", "score"}, ...]}, ...]}.

        position: the character of the text where the mask stands. Candidates: the likeliest first.
        """
        masks = zip(item.starts, output[0].tolist(), output[1].tolist(), strict=True)
        return {
            "masks": [
                {
                    "position": start,
                    "candidates": [
                        {"token": token, "token_str": self.tokenizer.decode([token], skip_special_tokens=False),
                         "score": score}
                        for token, score in zip(tokens, scores, strict=True)
                    ],
                }
                for start, tokens, scores in masks
            ]
        }  # fmt: skip


def _mask_start(text: TokenizedText, place: int) -> int:
    """The mask's own first character: the token swallows the spaces before it."""
    start, end = text.offsets[place].tolist()
    covered = text.text[start:end]
    return int(start + len(covered) - len(covered.lstrip()))
