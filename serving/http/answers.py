"""What the task endpoints, /info and every failure answer, with examples: the documentation of records as JSON."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


def example(**fields: Any) -> ConfigDict:
    """The model's example in the OpenAPI document."""
    return ConfigDict(json_schema_extra={"examples": [fields]})


class Candidate(BaseModel):
    model_config = example(score=0.83, token=1204, token_str=" Paris", sequence="The capital of France is Paris.")

    score: float
    token: int
    token_str: str
    sequence: str | None = Field(default=None, description="The input with the mask replaced; see return_sequence.")


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


class LabelledWindow(BaseModel):
    start: int = Field(description="First character that the window reads.")
    end: int = Field(description="One past the last.")
    labels: list[LabelScore]


class Labels(BaseModel):
    """With return_windows."""

    labels: list[LabelScore]
    windows: list[LabelledWindow]


class FoundAnswer(BaseModel):
    answer: str
    score: float
    start: int
    end: int


class AnsweringWindow(BaseModel):
    start: int
    end: int
    answers: list[FoundAnswer] = Field(description="The window's own best, scored among its own.")


class Answer(FoundAnswer):
    model_config = example(answer="in Rome", score=0.77, start=15, end=22)

    answers: list[FoundAnswer] | None = Field(default=None, description="With return_windows only.")
    windows: list[AnsweringWindow] | None = Field(default=None, description="With return_windows only.")


class EmbeddedWindow(BaseModel):
    start: int
    end: int
    embedding: list[float] | str


class Embedded(BaseModel):
    """With return_windows."""

    embedding: list[float] | str
    windows: list[EmbeddedWindow]


class Choice(BaseModel):
    model_config = example(choices=[0.88, 0.12], best=0)

    choices: list[float] = Field(description="A score for each choice, in the order of the request.")
    best: int = Field(description="Index of the best choice.")


class ScoredToken(BaseModel):
    token: str
    start: int
    end: int
    nll: float


class ScoredWindow(BaseModel):
    start: int
    end: int
    nll: float


class TextScore(BaseModel):
    model_config = example(nll=2.31, pseudo_perplexity=10.07)

    nll: float = Field(description="Mean negative log-likelihood of a token, in nats.")
    pseudo_perplexity: float
    tokens: list[ScoredToken] | None = Field(default=None, description="With return_tokens only.")
    windows: list[ScoredWindow] | None = Field(default=None, description="With return_windows only.")


class ErrorBody(BaseModel):
    error: str = Field(description="What is wrong, in a sentence.")
    error_type: str = Field(description="The kind of error, such as overloaded.")
    param: str | None = Field(default=None, description="The field at fault, such as inputs.3.question, where known.")


class RerankErrorBody(ErrorBody):
    message: str = Field(description="The same as error; Cohere's clients read it here.")


class OpenAIErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None = Field(description="The field at fault, such as input.3.")
    code: str | None


class OpenAIErrorBody(BaseModel):
    error: OpenAIErrorDetail


class HeadInfo(BaseModel):
    name: str
    task: str
    default: bool = Field(description="Whether it answers requests to its task that name no model.")
    model: str = Field(description="The checkpoint this head was started with.")
    ready: bool = Field(description="Whether a replica has it loaded.")
    state: str = Field(
        description="ready; asleep: the next request starts or loads it; cannot be loaded: `details` say why; or why "
        "it does not answer."
    )
    limits: dict[str, Any]
    details: dict[str, Any] | None = Field(description="What the model says of itself; null while it has no replica.")


class Info(BaseModel):
    version: str
    versions: dict[str, str]
    limits: dict[str, Any]
    heads: list[HeadInfo]
    model_id: str = Field(
        description="This and what follows as text-embeddings-inference has it: of the head at /embed."
    )
    max_input_length: int | None = Field(description="Tokens of one window; longer texts are read in several.")
    max_batch_tokens: int
    max_concurrent_requests: int
    max_client_batch_size: int
