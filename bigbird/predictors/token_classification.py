"""token-classification: a text in, its entities with character offsets out.

Knows how a document's token logits become records. The aggregation itself is in `entities.py`.
"""

from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from bigbird.config import BigBirdConfig
from bigbird.packing import PackedBatch
from bigbird.predictors.batches import split_rows
from bigbird.predictors.entities import Entity, LabelSet, Strategy, aggregate, name_starts, word_starts
from bigbird.predictors.examples import PreparedWindows, Record, Row
from bigbird.predictors.predictor import EncoderPredictor
from bigbird.predictors.tasks import TokenClassificationOptions, default_strategy
from bigbird.predictors.texts import TokenizedText
from bigbird.predictors.windows import stitch
from bigbird.tokenization.tokenizer import BigBirdTokenizer


class TokenClassificationPredictor(EncoderPredictor[TokenClassificationOptions, PreparedWindows, np.ndarray]):
    """Predictor for BigBirdForTokenClassification. An example is a text."""

    task = "token-classification"

    def __init__(self, tokenizer: BigBirdTokenizer, config: BigBirdConfig, model: Any = None, **settings: Any) -> None:
        super().__init__(tokenizer, config, model, **settings)
        self.default_strategy = default_strategy(config)

    @cached_property
    def labels(self) -> LabelSet:
        return LabelSet(self.config.id2label)

    def build(self, texts: list[TokenizedText], options: TokenClassificationOptions) -> PreparedWindows:
        """Cut into windows."""
        (text,) = texts
        limit = options.length_limit(self.config.max_position_embeddings)
        return PreparedWindows.cut(self.tokenizer, text, limit, options)

    def read(self, states: Tensor, packed: PackedBatch, rows: list[Row]) -> tuple[Tensor]:
        return (self.model.classifier(states).float(),)

    def split(self, arrays: list[np.ndarray], packed: PackedBatch, rows: list[Row]) -> list[np.ndarray]:
        return split_rows(arrays[0], packed)

    def gather(self, item: PreparedWindows, arrays: list[np.ndarray]) -> np.ndarray:
        """The logits of the document's tokens, (tokens, num_labels) float32."""
        return stitch(item.windows, [array[1:-1] for array in arrays])

    def decode(self, item: PreparedWindows, logits: np.ndarray, options: TokenClassificationOptions) -> Record:
        """{"entities": [...]}: entity_group, score, word, text, start, end; with strategy "none" entity and index
        instead of entity_group, for every token. start and end are characters of the text as given, and `text` is what
        stands between them; `word` is what transformers gives: the tokens decoded. index counts the tokens from
        [CLS], which is 0."""
        return {"entities": self._entities(item.text, logits, options)}

    def _entities(self, text: TokenizedText, logits: np.ndarray, options: TokenClassificationOptions) -> list[Record]:
        strategy = options.aggregation_strategy or self.default_strategy
        if strategy == "words":
            starts = name_starts(text.text, text.offsets)
        else:
            starts = word_starts(text.text, text.offsets, text.ids == self.tokenizer.unk_token_id)
        entities = aggregate(logits, self.labels, strategy, starts, options.ignore_labels)
        return [self._record(text, entity, strategy) for entity in entities]

    def _record(self, text: TokenizedText, entity: Entity, strategy: Strategy) -> Record:
        first, last = entity.words[0][0], entity.words[-1][1] - 1
        start, end = int(text.offsets[first, 0]), int(text.offsets[last, 1])
        if strategy == "none":
            (word,) = self._tokens(text, first, first + 1)
            return {"entity": entity.label, "score": entity.score, "index": first + 1, "word": word,
                    "text": text.text[start:end], "start": start, "end": end}  # fmt: skip
        if strategy in ("simple", "words"):
            words = self._tokens(text, first, last + 1)
        else:
            # transformers decodes each word, then the words once more as if they were tokens; so its result for
            # several words may lack spaces or accents, and so does this one.
            words = [self.tokenizer.convert_tokens_to_string(self._tokens(text, *word)) for word in entity.words]
        word = self.tokenizer.convert_tokens_to_string(words)
        return {"entity_group": entity.label, "score": entity.score, "word": word, "text": text.text[start:end],
                "start": start, "end": end}  # fmt: skip

    def _tokens(self, text: TokenizedText, start: int, stop: int) -> list[str]:
        """The tokens as strings; one outside the vocabulary as the text it stands for."""
        ids = text.ids[start:stop]
        tokens: list[str] = self.tokenizer.convert_ids_to_tokens(ids.tolist())
        for place in np.flatnonzero(ids == self.tokenizer.unk_token_id):
            begin, end = text.offsets[start + place]
            tokens[place] = text.text[begin:end]
        return tokens
