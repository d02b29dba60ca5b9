"""masked-lm-scoring: a text in; its mean negative log-likelihood under masking, and pseudo-perplexity, out.

Each token is masked exactly once: of the tokens a window keeps, pass p of `num_passes` masks p, p + num_passes,
p + 2 * num_passes, ..., so nothing is drawn at random and every pass hides the same share of the text, evenly spread.
(Salazar et al. 2020, "Masked Language Model Scoring", masks one token a pass; seven passes hide 14%, close to the
15% of training, and cost seven encodings whatever the length.)
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bigbird.config import BigBirdConfig
from bigbird.packing import PackedBatch
from bigbird.predictors.batches import (
    default_max_tokens_per_batch,
    encode_rows,
    forward_examples,
    to_records,
)
from bigbird.predictors.examples import Failed, Prepared, Record, TokenizedText, prepare, single_text, window_rows
from bigbird.predictors.masked_tokens import logits_at, split_like
from bigbird.predictors.windows import LengthOptions, Window, plan, require_at_least
from bigbird.tokenizer import BigBirdTokenizer


@dataclass(frozen=True, kw_only=True)
class MaskedLMScoringOptions(LengthOptions):
    """Lengths, and how often the text is read.

    num_passes: in how many passes the tokens are masked; more passes hide less of the text at once.
    return_tokens: whether the record lists every token with its own negative log-likelihood.
    """

    num_passes: int = 7
    return_tokens: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least("num_passes", self.num_passes, 1)


@dataclass(frozen=True, eq=False)
class MaskedRow:
    """A window's row with [MASK] at `positions` (masked,), counted from the row's start."""

    unmasked: np.ndarray
    positions: np.ndarray
    mask_token_id: int
    second: None = None

    @property
    def ids(self) -> np.ndarray:
        """Made anew when asked for: a document has `num_passes` such rows for each window."""
        ids = self.unmasked.copy()
        ids[self.positions] = self.mask_token_id
        return ids

    @property
    def targets(self) -> np.ndarray:
        """The tokens that stood at the positions, (masked,)."""
        return np.asarray(self.unmasked[self.positions])

    def __len__(self) -> int:
        return len(self.unmasked)


@dataclass(frozen=True, eq=False, kw_only=True)
class PreparedScoring(Prepared):
    """A text, its tokens as far as they are scored, its windows, one a row, and the number of passes."""

    text: TokenizedText
    windows: tuple[Window, ...]
    num_passes: int

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


class MaskedLMScoringPredictor:
    """Predictor for BigBirdForMaskedLM; `model` None leaves only preprocess and postprocess."""

    task = "masked-lm-scoring"

    def __init__(
        self,
        tokenizer: BigBirdTokenizer,
        config: BigBirdConfig,
        model: Any = None,
        *,
        options: MaskedLMScoringOptions | None = None,
        max_tokens_per_batch: int | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.config = config
        self.model = model
        self.options = options or MaskedLMScoringOptions()
        self.max_tokens_per_batch = max_tokens_per_batch or default_max_tokens_per_batch(model)

    def preprocess(
        self, examples: Sequence[object], options: MaskedLMScoringOptions | None = None
    ) -> list[PreparedScoring | Failed]:
        """Tokenize and cut into windows."""
        chosen = options or self.options

        def build(texts: list[TokenizedText]) -> PreparedScoring:
            room = chosen.length_limit(self.config.max_position_embeddings) - 2
            (text,) = texts
            windows, truncated = plan(len(text), room, chosen, what="text")
            return PreparedScoring(
                rows=window_rows(self.tokenizer, text, windows),
                num_tokens=windows[-1].stop,
                num_windows=len(windows),
                truncated=truncated,
                text=text.head(windows[-1].stop),
                windows=windows,
                num_passes=chosen.num_passes,
            )

        return prepare(
            examples,
            tokenizer=self.tokenizer,
            vocab_size=self.config.vocab_size,
            options=chosen,
            texts_of=single_text,
            build=build,
        )

    def forward(self, prepared: Sequence[PreparedScoring | Failed]) -> list[np.ndarray | None]:
        """Negative log-likelihood of each of a document's tokens in nats, (tokens,) float32; None for a Failed."""

        def rows_of(item: PreparedScoring) -> list[MaskedRow]:
            return [
                MaskedRow(item.rows[index].ids, tokens - item.windows[index].start + 1, self.tokenizer.mask_token_id)
                for index, tokens in item.masked()
            ]

        def read(states: Tensor, packed: PackedBatch, rows: list[MaskedRow]) -> list[np.ndarray]:
            positions = [row.positions for row in rows]
            targets = torch.from_numpy(np.concatenate([row.targets for row in rows]).astype(np.int64))
            targets = targets.to(states.device)
            losses = [
                logits.logsumexp(dim=-1) - logits.gather(1, targets[chunk, None])[:, 0]
                for chunk, logits in logits_at(self.model, states, packed, positions)
            ]
            return split_like(torch.cat(losses).cpu().numpy(), positions)

        def gather(item: PreparedScoring, losses: list[np.ndarray]) -> np.ndarray:
            nll = np.empty(len(item.text), dtype=np.float32)
            for (_, tokens), values in zip(item.masked(), losses, strict=True):
                nll[tokens] = values
            return nll

        run = partial(encode_rows, self.model.bert, self.max_tokens_per_batch, read)
        return forward_examples(prepared, rows_of, run, gather)

    def postprocess(
        self,
        prepared: Sequence[PreparedScoring | Failed],
        outputs: Sequence[np.ndarray | None],
        options: MaskedLMScoringOptions | None = None,
    ) -> list[Record]:
        """{"nll": mean over the tokens, nats; "pseudo_perplexity": exp(nll), at most the largest float}.

        With return_tokens also "tokens": token, start, end (characters of the text) and nll of each.
        """
        chosen = options or self.options

        def decode(item: PreparedScoring, losses: np.ndarray) -> Record:
            nll = float(losses.mean(dtype=np.float64))
            perplexity = math.exp(nll) if nll < math.log(sys.float_info.max) else sys.float_info.max
            record: Record = {"nll": nll, "pseudo_perplexity": perplexity}
            if chosen.return_tokens:
                record["tokens"] = self._token_list(item.text, losses)
            return record

        return to_records(prepared, outputs, decode)

    def __call__(self, examples: Sequence[object], options: MaskedLMScoringOptions | None = None) -> list[Record]:
        """Records of the same length and order as the examples."""
        prepared = self.preprocess(examples, options)
        return self.postprocess(prepared, self.forward(prepared), options)

    def _token_list(self, text: TokenizedText, losses: np.ndarray) -> list[Record]:
        tokens = self.tokenizer.convert_ids_to_tokens(text.ids.tolist())
        return [
            {"token": token, "start": start, "end": end, "nll": nll}
            for token, (start, end), nll in zip(tokens, text.offsets.tolist(), losses.tolist(), strict=True)
        ]
