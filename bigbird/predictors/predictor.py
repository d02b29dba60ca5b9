"""What the predictors of all tasks share: the way of an example through tokenizer, model and record.

Knows the order of the steps and nothing of a task. A task's own file says which rows an example becomes, what is read
from the encoder's states, and how that is told in a record.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from torch import Tensor

from bigbird.config import BigBirdConfig
from bigbird.packing import PackedBatch
from bigbird.predictors.batches import default_max_tokens_per_batch, encode_rows
from bigbird.predictors.examples import Failed, ModelRow, NamedTexts, Prepared, Record, TokenizedText, prepare
from bigbird.predictors.windows import LengthOptions
from bigbird.tokenization.tokenizer import BigBirdTokenizer

OptionsT = TypeVar("OptionsT")
PreparedT = TypeVar("PreparedT", bound=Prepared)
OutputT = TypeVar("OutputT")

NOT_FINITE = Failed("NonFiniteOutput", "the model's output for this example has inf or nan")


class Predictor(ABC, Generic[OptionsT, PreparedT, OutputT]):
    """Examples in, records of the same length and order out, errors in place.

    model: prepared for inference; None leaves only preprocess and postprocess. options: what calls go by that bring
    none of their own. max_tokens_per_batch: tokens the model reads at once (None: see default_max_tokens_per_batch).
    """

    task: ClassVar[str]
    options_class: ClassVar[type]
    architectures: ClassVar[tuple[str, ...]]
    """The heads that do the task; () where any encoder does."""
    takes_empty_texts: ClassVar[bool] = False

    def __init__(
        self,
        tokenizer: BigBirdTokenizer,
        config: BigBirdConfig,
        model: Any = None,
        *,
        options: OptionsT | None = None,
        max_tokens_per_batch: int | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.config = config
        self.model = model
        self.options: OptionsT = options or self.options_class()
        self.max_tokens_per_batch = max_tokens_per_batch or default_max_tokens_per_batch(model)

    def __call__(self, examples: Sequence[Any], options: OptionsT | None = None) -> list[Record]:
        """preprocess, forward and postprocess. Options given here are for this call, in the place of its own."""
        prepared = self.preprocess(examples, options)
        return self.postprocess(prepared, self.forward(prepared), options)

    def preprocess(self, examples: Sequence[Any], options: OptionsT | None = None) -> list[PreparedT | Failed]:
        """Tokenize and cut; one prepared example, or Failed, for each. Pure CPU, needs no weights; picklable."""
        chosen = options or self.options
        return prepare(
            examples,
            tokenizer=self.tokenizer,
            vocab_size=self.config.vocab_size,
            options=chosen if isinstance(chosen, LengthOptions) else LengthOptions(),
            texts_of=self.texts_of,
            build=partial(self.build, options=chosen),
            allow_empty=self.takes_empty_texts,
        )

    @staticmethod
    def texts_of(example: Any) -> NamedTexts:
        """The texts of an example, each with the name that messages give it; InputError for one of another form."""
        return [("text", example)]

    @abstractmethod
    def build(self, texts: list[TokenizedText], options: OptionsT) -> PreparedT:
        """The prepared example of its tokenized texts. Raises InputError for one that the model cannot read."""

    @abstractmethod
    def forward(self, prepared: Sequence[PreparedT | Failed]) -> list[OutputT | None]:
        """Run the model in micro-batches of at most max_tokens_per_batch; numpy outputs, None for a Failed."""

    def postprocess(
        self,
        prepared: Sequence[PreparedT | Failed],
        outputs: Sequence[OutputT | None],
        options: OptionsT | None = None,
    ) -> list[Record]:
        """Records. Good ones have num_tokens, num_windows and truncated; bad ones {"error": {"type", "message"}}.

        An output with inf or nan (half precision overflowing, broken weights) becomes a bad one.
        """
        chosen = options or self.options
        records = []
        for item, output in zip(prepared, outputs, strict=True):
            if isinstance(item, Failed):
                records.append(item.record)
            elif output is None:
                raise ValueError("an output is missing: pass what forward returned for these prepared examples")
            elif not _all_finite(output):
                records.append(NOT_FINITE.record)
            else:
                records.append({**self.decode(item, output, chosen), **item.facts})
        return records

    @abstractmethod
    def decode(self, item: PreparedT, output: OutputT, options: OptionsT) -> Record:
        """The task's own fields of a record."""


class EncoderPredictor(Predictor[OptionsT, PreparedT, OutputT]):
    """A predictor whose model reads every row once, each by itself."""

    @property
    def encoder(self) -> Any:
        """The BigBirdModel below the head."""
        return self.model.bert

    def forward(self, prepared: Sequence[PreparedT | Failed]) -> list[OutputT | None]:
        """What `gather` makes of each example's rows; None for a Failed."""
        rows = [[] if isinstance(item, Failed) else self.rows_of(item) for item in prepared]
        of_all = [row for of_one in rows for row in of_one]
        results = iter(encode_rows(self.encoder, self.max_tokens_per_batch, self.read, of_all))
        return [
            None if isinstance(item, Failed) else self.gather(item, [next(results) for _ in of_one])
            for item, of_one in zip(prepared, rows, strict=True)
        ]

    def rows_of(self, item: PreparedT) -> Sequence[ModelRow]:
        """The rows the encoder reads for an example."""
        return item.rows

    @abstractmethod
    def read(self, states: Tensor, packed: PackedBatch, rows: list[Any]) -> Sequence[Any]:
        """One result a row. states: (T, hidden) of one micro-batch; rows: those it holds, in order of its packing."""

    @abstractmethod
    def gather(self, item: PreparedT, results: list[Any]) -> OutputT:
        """The output of an example from the results of its rows."""


def _all_finite(output: Any) -> bool:
    """Of an array, or of several. What is no number is finite."""
    if isinstance(output, np.ndarray):
        return bool(np.isfinite(output).all())
    return all(map(_all_finite, output)) if isinstance(output, list | tuple) else True
