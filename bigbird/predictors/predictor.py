"""What the predictors of all tasks share: the way of an example through tokenizer, model and record.

Knows the order of the steps and nothing of a task. A task's own file says which rows an example becomes, what is read
from the encoder's states, and how that is told in a record.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, partial
from itertools import chain, islice
from typing import Any, ClassVar, Generic, TypeVar, overload

import numpy as np
from torch import Tensor

from bigbird.config import BigBirdConfig
from bigbird.errors import InputError
from bigbird.packing import PackedBatch
from bigbird.predictors.batches import Asked, default_max_tokens_per_batch, encode_rows
from bigbird.predictors.examples import Failed, ModelRow, NamedTexts, Prepared, Reading, Record, prepare
from bigbird.predictors.options import LengthOptions, changed
from bigbird.predictors.tasks import OPTIONS, check_call
from bigbird.predictors.texts import TokenizedText, kind_of
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
    takes_empty_texts: ClassVar[bool] = False
    example_fields: ClassVar[tuple[str, ...]] = ()
    """Where an example is a mapping: its fields, which a call for one example may also pass by name."""

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
        self.options: OptionsT = OPTIONS[self.task]()
        self.options = self._chosen(options)
        self._budget = max_tokens_per_batch

    @cached_property
    def max_tokens_per_batch(self) -> int:
        """Tokens the model reads at once. Asked for when it first runs: by then all that shares its memory is there."""
        return self._budget or default_max_tokens_per_batch(self.model)

    @overload
    def __call__(
        self, examples: str | Mapping[str, Any] | None = None, options: OptionsT | None = None, **by_name: Any
    ) -> Record: ...
    @overload
    def __call__(self, examples: Iterable[Any], options: OptionsT | None = None, **by_name: Any) -> list[Record]: ...
    def __call__(self, examples: Any = None, options: OptionsT | None = None, **by_name: Any) -> Record | list[Record]:
        """preprocess, forward and postprocess: a record for one text or mapping, a list of them for several.

        options: for this call, in the place of the predictor's own. by_name: single options that differ from those,
        as `top_k=3`; or the fields of one example, as `question=..., context=...`.
        Raises InputError for what is neither an example nor several, and for options that do not exist.
        """
        fields = {name: by_name.pop(name) for name in self.example_fields if name in by_name}
        if fields and examples is not None:
            raise InputError(f"pass the examples, or {' and '.join(fields)} of one by name, not both")
        examples = fields or examples
        chosen = changed(self._chosen(options), by_name)
        single = isinstance(examples, str | Mapping)
        if not single and (isinstance(examples, bytes) or not isinstance(examples, Iterable)):
            raise InputError(f"examples is {kind_of(examples)}, expected one example or several")
        prepared = self.preprocess([examples] if single else list(examples), chosen)
        records = self.postprocess(prepared, self.forward(prepared), chosen)
        return records[0] if single else records

    def preprocess(self, examples: Sequence[Any], options: OptionsT | None = None) -> list[PreparedT | Failed]:
        """Tokenize and cut; one prepared example, or Failed, for each. Pure CPU, needs no weights; picklable."""
        (prepared,) = prepare(self.tokenizer, [self.reading(examples, options)])
        return prepared

    def reading(self, examples: Sequence[Any], options: OptionsT | None = None) -> Reading[PreparedT]:
        """What `preprocess` asks of the tokenizer, and what it makes of the answer."""
        if isinstance(examples, str | bytes | Mapping):
            raise InputError(f"examples is {kind_of(examples)}, expected a list of them")
        chosen = self._chosen(options)
        return Reading(
            examples=examples,
            vocab_size=self.config.vocab_size,
            options=chosen if isinstance(chosen, LengthOptions) else LengthOptions(),
            texts_of=self.texts_of,
            build=partial(self.build, options=chosen),
            allow_empty=self.takes_empty_texts,
            with_words=self.reads_words(chosen),
        )

    def _chosen(self, options: OptionsT | None) -> OptionsT:
        if options is None:
            return self.options
        check_call(self.task, options)
        return options

    @staticmethod
    def texts_of(example: Any) -> NamedTexts:
        """The texts of an example, each with the name that messages give it; InputError for one of another form."""
        return [("text", example)]

    def reads_words(self, options: OptionsT) -> bool:
        """Whether the task needs to know which word each token belongs to."""
        return False

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
        chosen = self._chosen(options)
        records = []
        for item, output in zip(prepared, outputs, strict=True):
            if isinstance(item, Failed):
                records.append(item.record)
            elif output is None:
                raise ValueError("an output is missing: pass what forward returned for these prepared examples")
            elif not _all_finite(output):
                records.append(NOT_FINITE.record)
            else:
                windows = {}
                if item.spans:
                    told = self.decode_windows(item, output, chosen)
                    pairs = zip(item.spans, told, strict=True)
                    windows = {"windows": [{"start": start, "end": end, **one} for (start, end), one in pairs]}
                records.append({**self.decode(item, output, chosen), **windows, **item.facts})
        return records

    @abstractmethod
    def decode(self, item: PreparedT, output: OutputT, options: OptionsT) -> Record:
        """The task's own fields of a record."""

    def decode_windows(self, item: PreparedT, output: OutputT, options: OptionsT) -> list[Record]:
        """What a record says of each window; asked of tasks with the option return_windows."""
        raise NotImplementedError


class EncoderPredictor(Predictor[OptionsT, PreparedT, OutputT]):
    """A predictor whose model reads every row once, each by itself."""

    @property
    def encoder(self) -> Any:
        """The BigBirdModel below the head."""
        return self.model.bert

    def forward(self, prepared: Sequence[PreparedT | Failed]) -> list[OutputT | None]:
        """What `gather` makes of each example's rows; None for a Failed."""
        (outputs,) = forward_together([self], [prepared])
        return outputs

    def rows_of(self, item: PreparedT) -> Sequence[ModelRow]:
        """The rows the encoder reads for an example."""
        return item.rows

    @abstractmethod
    def read(self, states: Tensor, packed: PackedBatch, rows: list[Any]) -> tuple[Tensor, ...]:
        """What is wanted of states (T, hidden) of one micro-batch, on their device and without waiting for it; rows:
        those it holds, in the order of its packing."""

    def split(self, arrays: list[np.ndarray], packed: PackedBatch, rows: list[Any]) -> Sequence[Any]:
        """One result a row, of what `read` returned."""
        return list(arrays[0])

    @abstractmethod
    def gather(self, item: PreparedT, results: list[Any]) -> OutputT:
        """The output of an example from the results of its rows."""


def preprocess_together(
    predictors: Sequence[Predictor[Any, Any, Any]], examples: Sequence[Sequence[Any]]
) -> list[list[Any]]:
    """`preprocess` of predictors with the same tokenizer, each with its own examples; a text is tokenized once."""
    readings = [predictor.reading(own) for predictor, own in zip(predictors, examples, strict=True)]
    return prepare(predictors[0].tokenizer, readings)


def forward_together(
    predictors: Sequence[EncoderPredictor[Any, Any, Any]], prepared: Sequence[Sequence[Any]]
) -> list[list[Any]]:
    """`forward` of predictors that share their encoder, each with its own prepared examples.

    A row that several of them read goes through the encoder once.
    """
    rows = [
        [[] if isinstance(item, Failed) else predictor.rows_of(item) for item in items]
        for predictor, items in zip(predictors, prepared, strict=True)
    ]
    asked = [
        Asked(list(chain.from_iterable(of_one)), predictor.read, predictor.split)
        for predictor, of_one in zip(predictors, rows, strict=True)
    ]
    max_tokens = min(predictor.max_tokens_per_batch for predictor in predictors)
    results = map(iter, encode_rows(predictors[0].encoder, max_tokens, asked))
    return [
        [
            None if isinstance(item, Failed) else predictor.gather(item, list(islice(found, len(of_example))))
            for item, of_example in zip(items, of_one, strict=True)
        ]
        for predictor, items, of_one, found in zip(predictors, prepared, rows, results, strict=True)
    ]


def _all_finite(output: Any) -> bool:
    """Of an array, or of several. What is no number is finite."""
    if isinstance(output, np.ndarray):
        return bool(np.isfinite(output).all())
    return all(map(_all_finite, output)) if isinstance(output, list | tuple) else True
