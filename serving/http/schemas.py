"""Wire types of the task endpoints: what a request may hold. What an answer looks like is in `answers`.

It knows the Hugging Face inference API's names, and which of the library's options each stands for (`options`);
it knows neither the library nor how anything is computed. Unknown fields are refused by name. Every list has a cap
and stops at its first bad item: an error for each of a million items would cost more than any answer.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, model_validator

# The settings may ask for fewer.
MAX_INPUTS = 1024


def _check_unicode(text: str) -> str:
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"is not Unicode text: a lone surrogate at character {error.start}") from None
    return text


# JSON can spell half of a surrogate pair, which no encoder takes.
Text = Annotated[str, AfterValidator(_check_unicode)]


class Wire(BaseModel):
    """Base of everything a client sends: unknown fields are errors, nothing is coerced between types."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _keep_one_unknown_field(cls, data: Any) -> Any:
        """The first unknown field is enough to refuse; pydantic would make an error for each."""
        unknown = (
            next((name for name in data if name not in cls.model_fields), None) if isinstance(data, dict) else None
        )
        if unknown is None:
            return data
        return {**{name: data[name] for name in cls.model_fields if name in data}, unknown: data[unknown]}


class Parameters(Wire):
    """Parameters of every task: what happens to a document that is longer than the model."""

    on_long: Literal["window", "truncate", "error"] | None = Field(
        default=None, description="Read it in overlapping windows (the default), read its beginning, or refuse it."
    )
    window_overlap: int | None = Field(default=None, ge=0, description="Tokens that neighbouring windows share.")
    max_length: int | None = Field(
        default=None, ge=3, description="Tokens of one window; the model's limit by default."
    )

    # Field on the wire -> field of the library's options, where the names differ; None: not an option of the
    # library, but of the answer's shape.
    renamed: ClassVar[dict[str, str | None]] = {}

    def options(self) -> dict[str, Any]:
        """The library's options this request sets; what is left out keeps the library's default."""
        given = {name: value for name, value in self.model_dump().items() if value is not None}
        named = {self.renamed.get(name, name): value for name, value in given.items()}
        return {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in named.items()
            if name is not None
        }


class FillMaskParameters(Parameters):
    top_k: int | None = Field(default=None, ge=1, le=1000, description="Candidates for each mask; 5 by default.")
    return_sequence: bool | None = Field(
        default=None, description="Whether a candidate has `sequence`; by default where the text has one mask."
    )
    renamed = {"return_sequence": None}


class TokenClassificationParameters(Parameters):
    aggregation_strategy: Literal["none", "simple", "first", "average", "max", "words"] | None = Field(
        default=None, description='What the checkpoint asks for, or "simple", by default.'
    )
    ignore_labels: Annotated[list[Text], Field(fail_fast=True, max_length=1000)] | None = Field(
        default=None, description='["O"] by default.'
    )
    stride: int | None = Field(default=None, ge=0, description="Another name for window_overlap.")
    renamed = {"stride": "window_overlap"}


class TextClassificationParameters(Parameters):
    function_to_apply: Literal["sigmoid", "softmax", "none"] | None = None
    top_k: int | None = Field(default=None, ge=1, description="Labels in the answer; all by default.")
    combine: Literal["mean", "max"] | None = Field(
        default=None, description="How the windows of a long text are joined."
    )
    renamed = {"top_k": None}


class QuestionAnsweringParameters(Parameters):
    max_answer_len: int | None = Field(default=None, ge=1, description="Longest answer, in tokens.")
    max_question_len: int | None = Field(default=None, ge=1, description="Longest question, in tokens.")
    max_seq_len: int | None = Field(default=None, ge=8, description="Another name for max_length.")
    doc_stride: int | None = Field(default=None, ge=0, description="Another name for window_overlap.")
    handle_impossible_answer: bool | None = Field(default=None, description="Whether the answer may be empty.")
    top_k: int | None = Field(default=None, ge=1, le=1, description="Only the best answer is given.")
    renamed = {
        "max_seq_len": "max_length",
        "doc_stride": "window_overlap",
        "handle_impossible_answer": "allow_no_answer",
        "top_k": None,
    }


class MultipleChoiceParameters(Parameters):
    combine: Literal["mean", "max"] | None = Field(
        default=None, description="How the windows of a long prompt are joined."
    )


class MaskedLMScoringParameters(Parameters):
    num_passes: int | None = Field(
        default=None, ge=2, le=64, description="Each token is masked in one of these passes."
    )
    return_tokens: bool | None = Field(default=None, description="Also answer with every token's own value.")


class FeatureExtractionParameters(Parameters):
    normalize: bool | None = Field(default=None, description="Scale each vector to length 1.")
    pooling: Literal["mean", "cls"] | None = None
    truncate: bool | None = Field(default=None, description='true is on_long "truncate", false is "error".')

    def options(self) -> dict[str, Any]:
        options = super().options()
        truncate = options.pop("truncate", None)
        if truncate is not None:
            options["on_long"] = "truncate" if truncate else "error"
        return options


class TextPair(Wire):
    text: Text
    text_pair: Text


class QuestionAndContext(Wire):
    question: Text
    context: Text


class PromptAndChoices(Wire):
    prompt: Text
    choices: Annotated[list[Text], Field(fail_fast=True)] = Field(min_length=2, max_length=64)


def _one_or_list(schema: dict[str, Any]) -> None:
    """The schema of `inputs` as clients see it: one input or a list of them."""
    items = schema["items"]
    array = {name: schema.pop(name) for name in ("type", "items", "minItems", "maxItems") if name in schema}
    schema["anyOf"] = [items, array]


class TaskRequest(Wire):
    """One input or a list of them. `single` remembers which, because the answer has the same shape."""

    inputs: list[Any]
    parameters: Parameters
    model: Text | None = Field(default=None, description="The name of a model of this task; its default without one.")
    _single: bool = PrivateAttr(False)

    @property
    def single(self) -> bool:
        return self._single

    @model_validator(mode="wrap")
    @classmethod
    def _wrap_single_input(cls, data: Any, handler: Any) -> Any:
        single = isinstance(data, dict) and "inputs" in data and not isinstance(data["inputs"], list)
        request = handler({**data, "inputs": [data["inputs"]]} if single else data)
        request._single = single
        return request


def _inputs(examples: list[Any]) -> Any:
    return Field(min_length=1, max_length=MAX_INPUTS, fail_fast=True, json_schema_extra=_one_or_list, examples=examples)


_LONG_TEXT = "The Senate met in Rome. Marcus Cicero spoke for two hours."


class FillMaskRequest(TaskRequest):
    inputs: Annotated[list[Text], _inputs(["The capital of France is [MASK]."])]
    parameters: FillMaskParameters = Field(default_factory=FillMaskParameters)


class TokenClassificationRequest(TaskRequest):
    inputs: Annotated[list[Text], _inputs([_LONG_TEXT])]
    parameters: TokenClassificationParameters = Field(default_factory=TokenClassificationParameters)


class TextClassificationRequest(TaskRequest):
    inputs: Annotated[list[Text | TextPair], _inputs(["A fine film, and a long one."])]
    parameters: TextClassificationParameters = Field(default_factory=TextClassificationParameters)


class MultipleChoiceRequest(TaskRequest):
    inputs: Annotated[
        list[PromptAndChoices],
        _inputs([{"prompt": "It rained all day.", "choices": ["We got wet.", "We got rich."]}]),
    ]
    parameters: MultipleChoiceParameters = Field(default_factory=MultipleChoiceParameters)


class QuestionAnsweringRequest(TaskRequest):
    inputs: Annotated[
        list[QuestionAndContext],
        _inputs([{"question": "Where did the Senate meet?", "context": _LONG_TEXT}]),
    ]
    parameters: QuestionAnsweringParameters = Field(default_factory=QuestionAnsweringParameters)


class MaskedLMScoringRequest(TaskRequest):
    inputs: Annotated[list[Text], _inputs([_LONG_TEXT])]
    parameters: MaskedLMScoringParameters = Field(default_factory=MaskedLMScoringParameters)


class FeatureExtractionRequest(TaskRequest):
    """Parameters may also stand beside `inputs`: that is where this task's clients put them."""

    inputs: Annotated[list[Text], _inputs([_LONG_TEXT])]
    parameters: FeatureExtractionParameters = Field(default_factory=FeatureExtractionParameters)
    normalize: bool | None = None
    truncate: bool | None = None

    @model_validator(mode="after")
    def _gather_parameters(self) -> FeatureExtractionRequest:
        for name in ("normalize", "truncate"):
            if getattr(self, name) is not None and getattr(self.parameters, name) is None:
                setattr(self.parameters, name, getattr(self, name))
        return self
