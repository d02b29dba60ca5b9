"""Wire types of text-embeddings-inference's own endpoints: /embed, /embed_all, /predict, /tokenize, /decode."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from serving.http.answers import example
from serving.http.apis.parameters import FeatureExtractionParameters
from serving.http.apis.relevance_schemas import Direction
from serving.http.apis.wire import MAX_INPUTS, Int, Text, Texts, TokenIds, Wire, only

_ManyIds = Annotated[list[TokenIds], Field(fail_fast=True, min_length=1, max_length=MAX_INPUTS)]
_PAIR = Annotated[list[Text], Field(fail_fast=True, min_length=1, max_length=2)]
_MODEL = Field(default=None, description="A model of the task; its default without one.")


class EmbedAllRequest(Wire):
    """Every token's vector: [CLS], the tokens of the text, [SEP]."""

    inputs: Text | Texts | TokenIds | _ManyIds = Field(examples=["A long document."])
    truncate: bool | None = Field(
        default=None, description="true reads one end of a long text, false refuses it; else it is read in windows."
    )
    truncation_direction: Literal["left", "right", "Left", "Right"] | None = None
    prompt_name: Annotated[Any, only(instead="put the prompt before the text")] = None
    model: Text | None = _MODEL

    @property
    def texts(self) -> list[Any]:
        many = isinstance(self.inputs, list) and not isinstance(self.inputs[0], int)
        return list(self.inputs) if many else [self.inputs]

    def options(self) -> dict[str, Any]:
        """The library's."""
        given = {"truncate": self.truncate, "truncation_direction": self.truncation_direction}
        return FeatureExtractionParameters.model_validate(given).options()


class EmbedRequest(EmbedAllRequest):
    """One vector a text."""

    normalize: bool | None = Field(default=True, description="To length 1.")
    dimensions: Int | None = Field(default=None, ge=1, description="So many of each vector's first numbers.")

    def options(self) -> dict[str, Any]:
        return {**super().options(), "normalize": self.normalize is not False}


class PredictRequest(Wire):
    """A text, a pair as a list of two texts, or a list of such lists."""

    inputs: Text | _PAIR | Annotated[list[_PAIR], Field(fail_fast=True, min_length=1, max_length=MAX_INPUTS)] = Field(
        examples=["A fine film, and a long one."]
    )
    raw_scores: bool | None = Field(default=None, description="Logits.")
    truncate: bool | None = Field(default=None, description="true reads beginnings only, false refuses long texts.")
    truncation_direction: Direction = None
    model: Text | None = _MODEL

    @property
    def single(self) -> bool:
        return isinstance(self.inputs, str) or isinstance(self.inputs[0], str)

    @property
    def examples(self) -> list[Any]:
        """As the library reads them."""
        every: Any = [self.inputs] if self.single else self.inputs
        lists = [[one] if isinstance(one, str) else one for one in every]
        return [one[0] if len(one) == 1 else {"text": one[0], "text_pair": one[1]} for one in lists]

    def options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"function_to_apply": "none"} if self.raw_scores else {}
        if self.truncate is not None:
            options["on_long"] = "truncate" if self.truncate else "error"
        return options


class TokenizeRequest(Wire):
    inputs: Text | Texts = Field(examples=["A long document."])
    add_special_tokens: bool | None = True
    prompt_name: Annotated[Any, only(instead="put the prompt before the text")] = None
    model: Text | None = Field(default=None, description="Whose tokenizer; that of the embeddings without one.")


class DecodeRequest(Wire):
    ids: TokenIds | _ManyIds = Field(examples=[[4, 100, 5]])
    skip_special_tokens: bool | None = True
    model: Text | None = Field(default=None, description="Whose tokenizer; that of the embeddings without one.")


class Token(BaseModel):
    model_config = example(id=317, text="long", special=False, start=2, stop=6)

    id: int
    text: str
    special: bool
    start: int | None = Field(description="First character in the text; null for a special token.")
    stop: int | None = Field(description="One past the last.")
