"""Wire types of /v1/text-generation: text-generation-inference's format, which huggingface_hub's client speaks."""

from __future__ import annotations

import secrets
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from serving.http.answers import example
from serving.http.apis.wire import Int, Text, Wire, only

# What draws, where do_sample does not say.
_OF_SAMPLING = ("temperature", "top_k", "top_p")


class GenerationParameters(Wire):
    max_new_tokens: Int | None = Field(
        default=None, ge=1, description="100 by default, or as many as there is room for."
    )
    do_sample: bool | None = Field(
        default=None, description="Draw tokens; by default where temperature, top_k or top_p is given."
    )
    temperature: float | None = Field(default=None, gt=0, le=100, description="1 by default, where tokens are drawn.")
    top_k: Int | None = Field(default=None, ge=1)
    top_p: float | None = Field(default=None, gt=0, le=1)
    repetition_penalty: float | None = Field(default=None, ge=0.01, le=100)
    seed: int | None = Field(default=None, ge=0, lt=2**62, description="Drawn without one, and told in the details.")
    stop: Annotated[list[Annotated[Text, Field(min_length=1, max_length=200)]], Field(max_length=4)] | None = Field(
        default=None, description="The text ends before the first of these."
    )
    return_full_text: bool | None = Field(default=None, description="Begin with the prompt.")
    truncate: Int | None = Field(default=None, ge=1, description="Tokens of the prompt's end that are read.")
    details: bool | None = None
    decoder_input_details: bool | None = Field(default=None, description="The prompt's tokens too; with details.")
    top_n_tokens: Int | None = Field(default=None, ge=0, le=5, description="The likeliest tokens in each place.")
    adapter_id: Annotated[Any, only()] = None
    best_of: Annotated[Any, only(1)] = None
    frequency_penalty: Annotated[Any, only(0)] = None
    grammar: Annotated[Any, only()] = None
    typical_p: Annotated[Any, only(1)] = None
    watermark: Annotated[Any, only(False)] = None

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.do_sample is False:
            given = next((name for name in _OF_SAMPLING if getattr(self, name) is not None), None)
            if given is not None:
                raise ValueError(f"do_sample is false, where {given} changes nothing; leave one of them out")
        if self.decoder_input_details and not self.details:
            raise ValueError("decoder_input_details are part of details; ask for both")
        return self

    @property
    def samples(self) -> bool:
        given = any(getattr(self, name) is not None for name in _OF_SAMPLING)
        return given if self.do_sample is None else self.do_sample

    def options(self) -> dict[str, Any]:
        """The library's GenerationOptions this request sets, by name."""
        given: dict[str, Any] = {
            "max_new_tokens": self.max_new_tokens,
            "repetition_penalty": self.repetition_penalty,
            "stop": tuple(self.stop or ()),
            "prompt_logprobs": bool(self.decoder_input_details),
            "num_top_logprobs": self.top_n_tokens,
            "seed": self.seed,
        }
        if self.samples:
            given |= {"temperature": self.temperature or 1.0, "top_k": self.top_k, "top_p": self.top_p}
            # Drawn here, so that a request that is sent to another replica gives the same text.
            given["seed"] = secrets.randbelow(2**62) if self.seed is None else self.seed
        return {name: value for name, value in given.items() if value is not None}


class GenerationRequest(Wire):
    """One text. With `stream` the answer is server-sent events, one a token."""

    inputs: Text = Field(examples=["The history of the world"])
    parameters: GenerationParameters = Field(default_factory=GenerationParameters)
    stream: bool | None = False
    model: Text | None = Field(default=None, description="A model of text-generation; its default without one.")

    @model_validator(mode="after")
    def _check_stream(self) -> Self:
        if self.stream and self.parameters.decoder_input_details:
            raise ValueError("decoder_input_details: not with stream")
        return self


class PromptToken(BaseModel):
    id: int
    text: str
    logprob: float | None = Field(description="null for the first.")


class GeneratedToken(BaseModel):
    id: int
    text: str = Field(
        description="What has become final with it: of a character of several tokens, the last brings it."
    )
    logprob: float = Field(description="Under the model itself, before penalties and temperature.")
    special: bool


class GenerationDetails(BaseModel):
    finish_reason: Literal["length", "eos_token", "stop_sequence"]
    generated_tokens: int
    input_length: int
    seed: int | None
    prefill: list[PromptToken]
    tokens: list[GeneratedToken]
    top_tokens: list[list[GeneratedToken]] | None = Field(default=None, description="With top_n_tokens only.")


class GeneratedText(BaseModel):
    model_config = example(generated_text=" is long")

    generated_text: str
    details: GenerationDetails | None = Field(default=None, description="With details only.")
