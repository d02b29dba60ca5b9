"""fill-mask: a text with [MASK] in it; for each, the likeliest tokens.

Only windows that hold a mask are read, and of them only the masks' own states reach the vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bigbird.errors import InputError
from bigbird.packing import PackedBatch, to_device
from bigbird.predictors.examples import Prepared, Record, window_rows
from bigbird.predictors.masked_tokens import logits_at, split_like
from bigbird.predictors.predictor import EncoderPredictor
from bigbird.predictors.tasks import FillMaskOptions
from bigbird.predictors.texts import TokenizedText
from bigbird.predictors.windows import cut_document, num_doubled


@dataclass(frozen=True, eq=False)
class MaskRow:
    """A window's row, the places of its masks (masks,) counted from its start, and which candidates they get."""

    ids: np.ndarray
    positions: np.ndarray
    top_k: int
    target_ids: tuple[int, ...] | None
    types_from: None = None

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False, kw_only=True)
class PreparedMasks(Prepared):
    """A text's windows that keep a mask, one a row.

    positions: one array a row, the places of the masks it keeps. places: tokens of the text that are masks, starts:
    their characters, both left to right. top_k, target_ids: candidates asked for. text: where sequences are.
    """

    positions: tuple[np.ndarray, ...]
    places: tuple[int, ...]
    starts: tuple[int, ...]
    top_k: int
    target_ids: tuple[int, ...] | None
    text: TokenizedText | None


class FillMaskPredictor(EncoderPredictor[FillMaskOptions, PreparedMasks, tuple[np.ndarray, np.ndarray]]):
    """Predictor for BigBirdForMaskedLM. An example is a text."""

    task = "fill-mask"

    def build(self, texts: list[TokenizedText], options: FillMaskOptions) -> PreparedMasks:
        """Cut into windows; which candidates are asked for is read here. A text without a mask is refused."""
        room = options.length_limit(self.config.max_position_embeddings) - 2
        (text,) = texts
        targets = None if options.targets is None else self._target_ids(options.targets)
        windows, truncated = cut_document(len(text), room, options, what="text")
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
            num_lost=len(text) - len(kept),
            num_doubled=num_doubled(windows),
            positions=tuple(places - window.start + 1 for window, places in held),
            places=tuple(masks.tolist()),
            starts=tuple(_mask_start(kept, place) for place in masks.tolist()),
            top_k=min(options.top_k, len(targets) if targets else self._num_candidates),
            target_ids=targets,
            text=kept if options.return_sequence else None,
        )

    @property
    def _num_candidates(self) -> int:
        """A vocabulary may be padded beyond the tokenizer's; what has no spelling is no candidate."""
        return min(self.config.vocab_size, len(self.tokenizer))

    def _target_ids(self, targets: tuple[str, ...]) -> tuple[int, ...]:
        ids: list[int] = []
        for index, target in enumerate(targets):
            found = self.tokenizer.token_to_id(target)
            cut = self.tokenizer.encode_batch([target], add_special_tokens=False)[0].ids if found is None else []
            pieces = cut if found is None else [found]
            if len(pieces) != 1 or pieces[0] >= self.config.vocab_size:
                raise InputError(f"targets[{index}] is {target!r}, {len(pieces)} tokens of the vocabulary, expected 1")
            ids += pieces
        if not ids:
            raise InputError("targets is empty, expected at least one token")
        return tuple(dict.fromkeys(ids))

    def rows_of(self, item: PreparedMasks) -> list[MaskRow]:
        return [
            MaskRow(row.ids, positions, item.top_k, item.target_ids)
            for row, positions in zip(item.rows, item.positions, strict=True)
        ]

    def read(self, states: Tensor, packed: PackedBatch, rows: list[MaskRow]) -> tuple[Tensor, ...]:
        """For each set of targets that rows ask for: tokens and probabilities at these rows' masks, the best first."""
        found: list[Tensor] = []
        for targets, asking in _by_targets(rows).items():
            top_k = max(rows[index].top_k for index in asking)
            positions = [row.positions if row.target_ids == targets else row.positions[:0] for row in rows]
            ids = None if targets is None else to_device(np.array(targets), states.device)
            best = []
            for _, logits in logits_at(self.model, states, packed, positions):
                scores = logits.log_softmax(dim=-1)
                best.append((scores[:, : self._num_candidates] if ids is None else scores[:, ids]).topk(top_k))
            places = torch.cat([of_chunk.indices for of_chunk in best])
            found += [places if ids is None else ids[places], torch.cat([of_chunk.values for of_chunk in best]).exp()]
        return tuple(found)

    def split(
        self, arrays: list[np.ndarray], packed: PackedBatch, rows: list[MaskRow]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        results: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        for number, asking in enumerate(_by_targets(rows).values()):
            positions = [rows[index].positions for index in asking]
            tokens, chances = (split_like(array, positions) for array in arrays[2 * number : 2 * number + 2])
            for index, of_row, scores in zip(asking, tokens, chances, strict=True):
                results[index] = of_row[:, : rows[index].top_k], scores[:, : rows[index].top_k]
        return [results[index] for index in range(len(rows))]

    def gather(
        self, item: PreparedMasks, results: list[tuple[np.ndarray, np.ndarray]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The masks' best tokens (masks, top_k) int64 and their probabilities, float32."""
        tokens, scores = zip(*results, strict=True)
        return np.concatenate(tokens), np.concatenate(scores)

    def decode(self, item: PreparedMasks, output: tuple[np.ndarray, np.ndarray], options: FillMaskOptions) -> Record:
        """{"masks": [{"position", "candidates": [{"token", "token_str", "score"}, ...]}, ...]}.

        position: the character of the text where the mask stands. Candidates: the likeliest first; with
        return_sequence also "sequence".
        """
        masks = zip(item.starts, item.places, output[0].tolist(), output[1].tolist(), strict=True)
        return {
            "masks": [
                {
                    "position": start,
                    "candidates": [
                        {"token": token, "token_str": self.tokenizer.decode([token], skip_special_tokens=False),
                         "score": score, **self._sequence(item, place, token)}
                        for token, score in zip(tokens, scores, strict=True)
                    ],
                }
                for start, place, tokens, scores in masks
            ]
        }  # fmt: skip

    def _sequence(self, item: PreparedMasks, place: int, token: int) -> Record:
        if item.text is None:
            return {}
        ids = [self.tokenizer.cls_token_id, *item.text.ids.tolist(), self.tokenizer.sep_token_id]
        ids[place + 1] = token
        return {"sequence": self.tokenizer.decode(ids, skip_special_tokens=len(item.places) == 1)}


def _by_targets(rows: Sequence[MaskRow]) -> dict[tuple[int, ...] | None, list[int]]:
    """Which rows ask for which targets, in the order of their first."""
    asking: dict[tuple[int, ...] | None, list[int]] = {}
    for index, row in enumerate(rows):
        asking.setdefault(row.target_ids, []).append(index)
    return asking


def _mask_start(text: TokenizedText, place: int) -> int:
    """The mask's own first character: the token swallows the spaces before it."""
    start, end = text.offsets[place].tolist()
    covered = text.text[start:end]
    return int(start + len(covered) - len(covered.lstrip()))
