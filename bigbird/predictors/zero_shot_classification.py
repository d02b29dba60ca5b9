"""zero-shot-classification: a text in; labels of the caller's own, each with its score, out.

A head trained on natural language inference reads the text as premise, and each label, in a sentence, as hypothesis;
scores come from its logits for entailment. A long text is read in windows, with every hypothesis in each.
"""

from typing import Any

import numpy as np
from torch import Tensor

from bigbird.config import BigBirdConfig
from bigbird.errors import InputError
from bigbird.packing import PackedBatch
from bigbird.predictors.entities import softmax
from bigbird.predictors.examples import Prepared, Record, Row, pair_row, spans
from bigbird.predictors.predictor import EncoderPredictor
from bigbird.predictors.tasks import ZeroShotClassificationOptions, entailment_label
from bigbird.predictors.text_classification import combine_windows, ranked
from bigbird.predictors.texts import TokenizedText
from bigbird.predictors.windows import cut_document, num_doubled
from bigbird.tokenization.tokenizer import BigBirdTokenizer


class ZeroShotClassificationPredictor(EncoderPredictor[ZeroShotClassificationOptions, Prepared, np.ndarray]):
    """Predictor for BigBirdForSequenceClassification with a label that begins with "entail". An example is a text.

    Raises CheckpointError for labels without one: which logit means entailment must not be guessed.
    """

    task = "zero-shot-classification"

    def __init__(self, tokenizer: BigBirdTokenizer, config: BigBirdConfig, model: Any = None, **settings: Any) -> None:
        super().__init__(tokenizer, config, model, **settings)
        self.entailment = entailment_label(config)
        self.contradiction = config.num_labels - 1 if self.entailment == 0 else 0  # as in transformers

    def build(self, texts: list[TokenizedText], options: ZeroShotClassificationOptions) -> Prepared:
        """Cut the text into windows and pair each with every hypothesis."""
        (text,) = texts
        if not options.candidate_labels:
            raise InputError("candidate_labels is empty, expected at least one label")
        sentences = [options.hypothesis_template.format(label) for label in options.candidate_labels]
        encodings = self.tokenizer.encode_batch(sentences, add_special_tokens=False)
        hypotheses = [np.asarray(encoding.ids, dtype=np.int32) for encoding in encodings]
        limit = options.length_limit(self.config.max_position_embeddings)
        windows, truncated = cut_document(len(text), limit - 3 - max(map(len, hypotheses)), options, what="text")
        kept = windows[-1].stop
        num_read = kept * len(hypotheses) + sum(map(len, hypotheses)) * len(windows)
        if num_read > options.max_tokens_per_document:
            raise InputError(
                f"a text of {kept} tokens in {len(windows)} windows, read with each of {len(hypotheses)} labels, "
                f"makes {num_read} tokens, more than max_tokens_per_document={options.max_tokens_per_document}"
            )
        return Prepared(
            rows=tuple(
                pair_row(self.tokenizer, text.ids[window.start : window.stop], hypothesis)
                for window in windows
                for hypothesis in hypotheses
            ),
            num_tokens=kept,
            num_windows=len(windows),
            truncated=truncated,
            num_lost=len(text) - kept,
            num_doubled=num_doubled(windows),
            spans=spans(text, windows, options),
        )

    def read(self, states: Tensor, packed: PackedBatch, rows: list[Row]) -> tuple[Tensor]:
        return (self.model.classifier(states[packed.first_tokens]).float(),)

    def gather(self, item: Prepared, logits: list[np.ndarray]) -> np.ndarray:
        """(windows, candidate labels, num_labels) float32."""
        return np.stack(logits).reshape(item.num_windows, -1, self.config.num_labels)

    def decode(self, item: Prepared, logits: np.ndarray, options: ZeroShotClassificationOptions) -> Record:
        """{"labels": [{"label", "score"}, ...]}: all candidates, the highest score first."""
        return self._ranked(combine_windows(logits, options.combine), options)

    def decode_windows(
        self, item: Prepared, logits: np.ndarray, options: ZeroShotClassificationOptions
    ) -> list[Record]:
        """The candidates' scores in each window by itself."""
        return [self._ranked(window, options) for window in logits]

    def _ranked(self, logits: np.ndarray, options: ZeroShotClassificationOptions) -> Record:
        if options.multi_label or len(options.candidate_labels) == 1:
            scores = softmax(logits[:, [self.contradiction, self.entailment]])[:, 1]
        else:
            scores = softmax(logits[:, self.entailment])
        return {"labels": ranked(scores, options.candidate_labels)}
