"""masked-lm-scoring: a text in; its mean negative log-likelihood under masking, and pseudo-perplexity, out.

By default each token is masked once: of the tokens a window keeps, pass p of `num_passes` masks p, p + num_passes,
p + 2 * num_passes, ..., so nothing is drawn at random and every pass hides the same share of the text, evenly spread.
Seven passes hide 14%, close to the 15% of training, and cost seven encodings whatever the length. The metrics as
published mask one token a pass, with as many encodings as tokens, and give other numbers.
"""

import math
import sys
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bigbird.packing import PackedBatch, to_device
from bigbird.predictors.examples import PreparedWindows, Record
from bigbird.predictors.masked_tokens import logits_at, split_like
from bigbird.predictors.predictor import EncoderPredictor
from bigbird.predictors.tasks import MaskedLMScoringOptions
from bigbird.predictors.texts import TokenizedText


@dataclass(frozen=True, eq=False)
class MaskedRow:
    """A window's row with [MASK] at `positions` (masked,), counted from the row's start, and also in `hidden`."""

    unmasked: np.ndarray
    positions: np.ndarray
    hidden: slice
    mask_token_id: int
    types_from: None = None

    @property
    def ids(self) -> np.ndarray:
        """Made anew when asked for: a document has `num_passes` such rows for each window."""
        ids = self.unmasked.copy()
        ids[self.positions] = self.mask_token_id
        ids[self.hidden] = self.mask_token_id
        return ids

    @property
    def targets(self) -> np.ndarray:
        """The tokens that stood at the positions, (masked,)."""
        return np.asarray(self.unmasked[self.positions])

    def __len__(self) -> int:
        return len(self.unmasked)


@dataclass(frozen=True, eq=False, kw_only=True)
class PreparedScoring(PreparedWindows):
    """Windows, and how often each is read. words_end: where each token's word ends, if the rest of it is hidden."""

    num_passes: int
    words_end: np.ndarray | None = None

    @property
    def num_model_tokens(self) -> int:
        """Tokens the model reads: each window in every pass that masks something in it."""
        return sum(
            len(row) * min(self.num_passes, window.num_kept)
            for row, window in zip(self.rows, self.windows, strict=True)
        )

    def masked(self) -> list[tuple[int, np.ndarray]]:
        """What is masked together: the index of the window, and tokens of the document it keeps, ascending."""
        return [
            (index, tokens)
            for index, window in enumerate(self.windows)
            for first in range(window.keep_start, min(window.keep_start + self.num_passes, window.keep_stop))
            if len(tokens := np.arange(first, window.keep_stop, self.num_passes))
        ]


class MaskedLMScoringPredictor(EncoderPredictor[MaskedLMScoringOptions, PreparedScoring, np.ndarray]):
    """Predictor for BigBirdForMaskedLM. An example is a text."""

    task = "masked-lm-scoring"

    def build(self, texts: list[TokenizedText], options: MaskedLMScoringOptions) -> PreparedScoring:
        """Cut into windows; `num_passes` is read here."""
        (text,) = texts
        limit = options.length_limit(self.config.max_position_embeddings)
        return PreparedScoring.cut(
            self.tokenizer,
            text,
            limit,
            options,
            num_passes=options.num_passes if options.metric == "passes" else len(text),
            words_end=None if text.words is None else _words_end(text.words),
        )

    def reads_words(self, options: MaskedLMScoringOptions) -> bool:
        return options.metric == "within_word_l2r"

    def rows_of(self, item: PreparedScoring) -> list[MaskedRow]:
        rows = []
        for index, tokens in item.masked():
            window, hidden = item.windows[index], slice(0)
            if item.words_end is not None:  # one token a row
                first, end = int(tokens[0]), min(int(item.words_end[tokens[0]]), window.stop)
                hidden = slice(first - window.start + 1, end - window.start + 1)
            mask = self.tokenizer.mask_token_id
            rows.append(MaskedRow(item.rows[index].ids, tokens - window.start + 1, hidden, mask))
        return rows

    def read(self, states: Tensor, packed: PackedBatch, rows: list[MaskedRow]) -> tuple[Tensor]:
        positions = [row.positions for row in rows]
        targets = to_device(np.concatenate([row.targets for row in rows]).astype(np.int64), states.device)
        losses = [
            logits.logsumexp(dim=-1) - logits.gather(1, targets[chunk, None])[:, 0]
            for chunk, logits in logits_at(self.model, states, packed, positions)
        ]
        return (torch.cat(losses),)

    def split(self, arrays: list[np.ndarray], packed: PackedBatch, rows: list[MaskedRow]) -> list[np.ndarray]:
        return split_like(arrays[0], [row.positions for row in rows])

    def gather(self, item: PreparedScoring, losses: list[np.ndarray]) -> np.ndarray:
        """The negative log-likelihood of each token of the document in nats, (tokens,) float32."""
        nll = np.empty(len(item.text), dtype=np.float32)
        for (_, tokens), values in zip(item.masked(), losses, strict=True):
            nll[tokens] = values
        return nll

    def decode(self, item: PreparedScoring, losses: np.ndarray, options: MaskedLMScoringOptions) -> Record:
        """{"nll": mean over the tokens, nats; "pseudo_perplexity": exp(nll), at most the largest float}.

        With return_tokens also "tokens": token, start, end (characters of the text) and nll of each.
        """
        nll = float(losses.mean(dtype=np.float64))
        perplexity = math.exp(nll) if nll < math.log(sys.float_info.max) else sys.float_info.max
        record: Record = {"nll": nll, "pseudo_perplexity": perplexity}
        if options.return_tokens:
            record["tokens"] = self._token_list(item.text, losses)
        return record

    def decode_windows(
        self, item: PreparedScoring, losses: np.ndarray, options: MaskedLMScoringOptions
    ) -> list[Record]:
        """{"nll"}: the mean over the tokens whose loss is the window's, those far from its edges."""
        parts = [losses[window.keep_start : window.keep_stop] for window in item.windows]
        return [{"nll": float(part.mean(dtype=np.float64))} for part in parts]

    def _token_list(self, text: TokenizedText, losses: np.ndarray) -> list[Record]:
        tokens = self.tokenizer.convert_ids_to_tokens(text.ids.tolist())
        return [
            {"token": token, "start": start, "end": end, "nll": nll}
            for token, (start, end), nll in zip(tokens, text.offsets.tolist(), losses.tolist(), strict=True)
        ]


def _words_end(words: np.ndarray) -> np.ndarray:
    """Where the word of each token ends, (tokens,) int; a token of no word (-1) is one."""
    last = np.append((words[1:] != words[:-1]) | (words[1:] < 0), True)
    ends = np.flatnonzero(last) + 1
    return np.asarray(ends[np.searchsorted(ends, np.arange(len(words)), side="right")])
