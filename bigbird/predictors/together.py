"""Several predictors over the same rows: texts tokenized once a tokenizer, rows encoded once an encoder.

Knows which predictors share what; what they make of it is theirs.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from bigbird.predictors.predictor import EncoderPredictor, Predictor, forward_together, preprocess_together


class Together:
    """Predictors, or what has their preprocess, forward and postprocess; each gives what it gives alone.

    Tokenizers are the same where their digests are, encoders where one was loaded in the place of the other
    (`load_predictor(..., encoder=...)`).
    """

    def __init__(self, predictors: Sequence[Any]) -> None:
        self.predictors = predictors
        self._by_tokenizer = self._grouped(lambda one: one.tokenizer.digest if isinstance(one, Predictor) else id(one))
        self._by_encoder = self._grouped(
            lambda one: id(one.encoder.encoder) if isinstance(one, EncoderPredictor) and one.model else id(one)
        )

    def alone(self) -> list["Together"]:
        """Each predictor by itself."""
        return [Together([predictor]) for predictor in self.predictors]

    def preprocess(self, examples: Sequence[Sequence[Any]]) -> list[Sequence[Any]]:
        """For each predictor, its prepared examples. examples: those of each predictor."""
        return self._in_groups(self._by_tokenizer, lambda one, own: one.preprocess(own), preprocess_together, examples)

    def forward(self, prepared: Sequence[Sequence[Any]]) -> list[Sequence[Any]]:
        """For each predictor, its outputs."""
        return self._in_groups(self._by_encoder, lambda one, own: one.forward(own), forward_together, prepared)

    def postprocess(self, prepared: Sequence[Sequence[Any]], outputs: Sequence[Sequence[Any]]) -> list[Sequence[Any]]:
        """For each predictor, its records."""
        return [
            one.postprocess(items, found) for one, items, found in zip(self.predictors, prepared, outputs, strict=True)
        ]

    def _grouped(self, key: Callable[[Any], Hashable]) -> list[list[int]]:
        groups: dict[Hashable, list[int]] = {}
        for number, predictor in enumerate(self.predictors):
            groups.setdefault(key(predictor), []).append(number)
        return list(groups.values())

    def _in_groups(
        self,
        groups: Sequence[Sequence[int]],
        alone: Callable[[Any, Any], Any],
        together: Callable[[Any, Any], Any],
        given: Sequence[Sequence[Any]],
    ) -> list[Sequence[Any]]:
        found: dict[int, Sequence[Any]] = {}
        for numbers in groups:
            predictors, items = [self.predictors[n] for n in numbers], [given[n] for n in numbers]
            if len(numbers) == 1:  # a stand-in, or a predictor with a way of its own, as text-generation
                found[numbers[0]] = alone(predictors[0], items[0])
            else:
                found.update(zip(numbers, together(predictors, items), strict=True))
        return [found[number] for number in range(len(given))]
