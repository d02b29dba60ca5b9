"""Wire types of the task endpoints: what a request may hold. What an answer looks like is in `answers`.

It knows the Hugging Face inference API's names, neither the library nor how anything is computed. Every list has a cap
and stops at its first bad item: an error for each of a million items would cost more than any answer.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, PrivateAttr, model_validator

from serving.http.apis.parameters import (
    FeatureExtractionParameters,
    FillMaskParameters,
    MaskedLMScoringParameters,
    MultipleChoiceParameters,
    Parameters,
    QuestionAnsweringParameters,
    TextClassificationParameters,
    TokenClassificationParameters,
    ZeroShotClassificationParameters,
)
from serving.http.apis.wire import MAX_INPUTS, Text, Wire


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


class ZeroShotClassificationRequest(TaskRequest):
    inputs: Annotated[list[Text], _inputs([_LONG_TEXT])]
    parameters: ZeroShotClassificationParameters


class FeatureExtractionRequest(TaskRequest):
    """Parameters may also stand beside `inputs`: that is where this task's clients put them."""

    inputs: Annotated[list[Text], _inputs([_LONG_TEXT])]
    parameters: FeatureExtractionParameters = Field(default_factory=FeatureExtractionParameters)

    @model_validator(mode="before")
    @classmethod
    def _gather_parameters(cls, data: Any) -> Any:
        beside = {name: data[name] for name in _BESIDE if name in data} if isinstance(data, dict) else {}
        if not beside:
            return data
        rest = {name: value for name, value in data.items() if name not in beside}
        inside = rest.get("parameters")
        if inside is not None and not isinstance(inside, dict):
            return rest
        if twice := next((name for name in beside if name in (inside or {})), None):
            raise ValueError(f"{twice} stands beside inputs and in parameters; send it once")
        return {**rest, "parameters": {**beside, **(inside or {})}}


_BESIDE = frozenset(FeatureExtractionParameters.model_fields) - frozenset(Parameters.model_fields)
