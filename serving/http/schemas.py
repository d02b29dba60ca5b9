"""Wire types of the task endpoints: what a request may hold and what an answer looks like, with examples.

It knows the Hugging Face inference API's names, and which of the library's options each stands for (`options`);
it knows neither the library nor how anything is computed. Unknown fields are refused by name.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, model_validator


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


class TokenClassificationParameters(Parameters):
    aggregation_strategy: Literal["none", "simple", "first", "average", "max", "words"] | None = Field(
        default=None, description='What the checkpoint asks for, or "simple", by default.'
    )
    ignore_labels: list[Text] | None = Field(default=None, max_length=1000, description='["O"] by default.')
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
    choices: list[Text] = Field(min_length=2, max_length=64)


def _one_or_list(schema: dict[str, Any]) -> None:
    """The schema of `inputs` as clients see it: one input or a list of them."""
    items = schema["items"]
    array = {name: schema.pop(name) for name in ("type", "items", "minItems") if name in schema}
    schema["anyOf"] = [items, array]


class TaskRequest(Wire):
    """One input or a list of them. `single` remembers which, because the answer has the same shape."""

    inputs: list[Any]
    parameters: Parameters
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
    return Field(min_length=1, json_schema_extra=_one_or_list, examples=examples)


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
        list[PromptAndChoices], _inputs([{"prompt": "It rained all day.", "choices": ["We got wet.", "We got rich."]}])
    ]
    parameters: MultipleChoiceParameters = Field(default_factory=MultipleChoiceParameters)


class QuestionAnsweringRequest(TaskRequest):
    inputs: Annotated[
        list[QuestionAndContext], _inputs([{"question": "Where did the Senate meet?", "context": _LONG_TEXT}])
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


def example(**fields: Any) -> ConfigDict:
    """The model's example in the OpenAPI document."""
    return ConfigDict(json_schema_extra={"examples": [fields]})


class Candidate(BaseModel):
    model_config = example(score=0.83, token=1204, token_str=" Paris", sequence="The capital of France is Paris.")

    score: float
    token: int
    token_str: str
    sequence: str = Field(description="The input with the mask replaced.")


class Entity(BaseModel):
    model_config = example(entity_group="PER", score=0.98, word="Marcus Cicero", text="Marcus Cicero", start=24, end=37)

    entity_group: str | None = Field(default=None, description='Absent with aggregation_strategy "none".')
    entity: str | None = Field(default=None, description='Only with aggregation_strategy "none".')
    index: int | None = Field(default=None, description='Only with aggregation_strategy "none".')
    score: float
    word: str = Field(description="The tokens, decoded.")
    text: str = Field(description="The input between start and end.")
    start: int = Field(description="First character in the input.")
    end: int = Field(description="One past the last character.")


class LabelScore(BaseModel):
    model_config = example(label="positive", score=0.91)

    label: str
    score: float


class Answer(BaseModel):
    model_config = example(answer="in Rome", score=0.77, start=15, end=22)

    answer: str
    score: float
    start: int
    end: int


class Choice(BaseModel):
    model_config = example(choices=[0.88, 0.12], best=0)

    choices: list[float] = Field(description="A score for each choice, in the order of the request.")
    best: int = Field(description="Index of the best choice.")


class ScoredToken(BaseModel):
    token: str
    start: int
    end: int
    nll: float


class TextScore(BaseModel):
    model_config = example(nll=2.31, pseudo_perplexity=10.07)

    nll: float = Field(description="Mean negative log-likelihood of a token, in nats.")
    pseudo_perplexity: float
    tokens: list[ScoredToken] | None = Field(default=None, description="With return_tokens only.")


class ErrorDetail(BaseModel):
    type: str
    message: str
    param: str | None = Field(description="The field at fault, such as inputs.3.question.")


class ErrorBody(BaseModel):
    error: ErrorDetail


class HeadInfo(BaseModel):
    task: str
    model: str = Field(description="The checkpoint this head was started with.")
    ready: bool
    limits: dict[str, Any]
    details: dict[str, Any] | None = Field(description="What the model says of itself; null while it has no replica.")


class Info(BaseModel):
    version: str
    versions: dict[str, str]
    limits: dict[str, Any]
    heads: list[HeadInfo]
