"""Wire types of /v1/completions, /v1/embeddings and /v1/models: OpenAI's shapes, as far as they are served.

A field of OpenAI's that is not served is still declared, with the one value that changes nothing, so that asking
for more is refused by name and never ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, field_validator

from serving.errors import ServingError
from serving.http.answers import example
from serving.http.apis.wire import MAX_INPUTS, Int, Text, Texts, TokenIds, Wire

_PromptsOfIds = Annotated[list[TokenIds], Field(fail_fast=True, max_length=MAX_INPUTS)]
# As many as OpenAI takes in one call.
MAX_EMBEDDED = 2048
_Embedded = Annotated[list[Text], Field(fail_fast=True, min_length=1, max_length=MAX_EMBEDDED)]
_EmbeddedIds = Annotated[list[TokenIds], Field(fail_fast=True, min_length=1, max_length=MAX_EMBEDDED)]


def _one_or_many(value: Any) -> list[str | list[int]]:
    """A text, token ids, or a list of either, as a list."""
    many = isinstance(value, list) and not isinstance(value[0], int)
    return value if many else [value]


class StreamOptions(Wire):
    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class CompletionRequest(Wire):
    """Log-probabilities are those of the model itself, before bias, penalties and temperature."""

    model: Text = Field(examples=["text-generation"])
    prompt: Text | Texts | TokenIds | _PromptsOfIds = Field(examples=["The history of the world"])
    max_tokens: Int | None = Field(default=None, ge=0, description="16 by default, or as many as there is room for.")
    temperature: float | None = Field(default=1.0, ge=0, le=2)
    top_p: float | None = Field(default=1.0, ge=0, le=1)
    top_k: Int | None = Field(default=None, ge=0, description="Not OpenAI's: draw among the k likeliest tokens.")
    min_p: float | None = Field(
        default=None, ge=0, le=1, description="Not OpenAI's: leave out tokens rarer than this share."
    )
    repetition_penalty: float | None = Field(
        default=None, ge=0.01, le=100, description="Not OpenAI's; 1 changes nothing."
    )
    min_tokens: Int | None = Field(
        default=None, ge=0, description="Not OpenAI's: no end of text before so many tokens."
    )
    n: Int | None = Field(default=1, ge=1, le=16)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    logprobs: Int | None = Field(
        default=None, ge=0, le=5, description="So many alternatives beside each token; with `echo` also the prompt's."
    )
    logit_bias: dict[str, Any] | None = Field(
        default=None, max_length=1024, description="Token id -> number from -100 to 100, added to its logit."
    )
    echo: bool | None = False
    stop: Text | Annotated[list[Text], Field(fail_fast=True, max_length=4)] | None = None
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    user: Text | None = None

    best_of: Int | None = Field(
        default=None, ge=1, le=16, description="Of so many continuations, the n that are likeliest a token."
    )
    frequency_penalty: float | None = Field(default=None, ge=0, le=0, description="Not served.")
    presence_penalty: float | None = Field(default=None, ge=0, le=0, description="Not served.")
    suffix: Literal[""] | None = Field(default=None, description="Not served.")

    @field_validator("prompt")
    @classmethod
    def _check_prompt(cls, prompt: Any) -> Any:
        if prompt == []:
            raise ValueError("should not be empty")
        return prompt

    @field_validator("logit_bias")
    @classmethod
    def _check_logit_bias(cls, bias: Any) -> Any:
        for token, number in (bias or {}).items():
            if not token.isdecimal() or len(token) > 9:
                raise ValueError(f"should have token ids as keys, got {token[:100]!r}")
            if type(number) not in (int, float) or not -100 <= number <= 100:
                raise ValueError(f"should have numbers from -100 to 100, got {str(number)[:100]} for token {token}")
        return bias

    def check(self) -> None:
        """Raises ServingError for fields that do not go together."""
        n, best_of = self.n or 1, self.best_of
        if best_of is not None and best_of < n:
            raise ServingError("invalid_input", f"best_of: {best_of}, and has to be at least n, {n}", param="best_of")
        if self.stream and best_of is not None and best_of > n:
            raise ServingError("invalid_input", f"best_of: {best_of}, which cannot be streamed", param="best_of")
        if self.stream_options is not None and not self.stream:
            raise ServingError("invalid_input", "stream_options: only with stream", param="stream_options")

    @field_validator("stop")
    @classmethod
    def _check_stop(cls, stop: Any) -> Any:
        stops = [stop] if isinstance(stop, str) else stop or []
        if "" in stops or any(len(item) > 200 for item in stops):
            raise ValueError("should hold strings of 1 to 200 characters")
        return stop

    @property
    def prompts(self) -> list[str | list[int]]:
        """Every prompt as a text or as token ids."""
        return _one_or_many(self.prompt)

    def options(self) -> dict[str, Any]:
        """The library's GenerationOptions this request sets, by name."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        # The likeliest token alone is what top_p 0 leaves.
        temperature = 0.0 if self.top_p == 0 else 1.0 if self.temperature is None else self.temperature
        given = {
            "max_new_tokens": self.max_tokens,
            "min_new_tokens": self.min_tokens,
            "temperature": temperature,
            "repetition_penalty": self.repetition_penalty,
            "logit_bias": tuple((int(token), bias) for token, bias in (self.logit_bias or {}).items()),
            "seed": None if self.seed is None else self.seed % 2**62,
            "stop": tuple(stop),
            "logprobs": self.logprobs is not None,
            "num_top_logprobs": self.logprobs or 0,
        }
        if temperature > 0:  # at 0 the likeliest token is chosen, which none of them leaves out
            given |= {"top_p": self.top_p, "top_k": self.top_k, "min_p": self.min_p}
        return {name: value for name, value in given.items() if value is not None}


class Logprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length"] | None


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Completion(BaseModel):
    model_config = example(
        id="cmpl-4f1c",
        object="text_completion",
        created=1767225600,
        model="text-generation",
        choices=[
            {
                "index": 0,
                "text": " is long",
                "logprobs": {
                    "tokens": [" is", " long"],
                    "token_logprobs": [-0.21, -1.4],
                    "top_logprobs": [{" is": -0.21}, {" short": -1.1, " long": -1.4}],
                    "text_offset": [0, 3],
                },
                "finish_reason": "stop",
            }
        ],
        usage={"prompt_tokens": 6, "completion_tokens": 2, "total_tokens": 8},
    )

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


class EmbeddingsRequest(Wire):
    model: Text = Field(examples=["feature-extraction"])
    input: Text | _Embedded | TokenIds | _EmbeddedIds = Field(examples=["A long document."])

    encoding_format: Literal["float", "base64"] | None = "float"
    user: Text | None = None
    dimensions: Int | None = Field(
        default=None, ge=1, description="So many of the first numbers, brought to length 1 again."
    )

    @property
    def inputs(self) -> list[str | list[int]]:
        """Every input as a text or as token ids."""
        return _one_or_many(self.input)


class Embedding(BaseModel):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingsUsage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class Embeddings(BaseModel):
    model_config = example(
        object="list",
        data=[{"object": "embedding", "index": 0, "embedding": [0.021, -0.117, 0.08]}],
        model="feature-extraction",
        usage={"prompt_tokens": 6, "total_tokens": 6},
    )

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingsUsage


class Model(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    task: str
    paths: list[str] = Field(description="Where it answers.")


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[Model]
