"""What all requests share: unknown fields are refused by name, nothing is coerced, every text is Unicode.

A field that clients send and that is not served is declared with `only(...)`: it may hold what changes nothing, and
asking for more is refused by name.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

# Items of a list of inputs; the settings may ask for fewer.
MAX_INPUTS = 1024


def _check_unicode(text: str) -> str:
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"is not Unicode text: a lone surrogate at character {error.start}") from None
    return text


# No number of tokens, labels or the like is larger; one of thousands of digits could not even be told in a message.
Int = Annotated[int, Field(lt=2**31)]

# JSON can spell half of a surrogate pair, which no encoder takes.
Text = Annotated[str, AfterValidator(_check_unicode)]
Texts = Annotated[list[Text], Field(fail_fast=True, min_length=1, max_length=MAX_INPUTS)]
TokenIds = Annotated[list[Annotated[Int, Field(ge=0)]], Field(fail_fast=True, min_length=1, max_length=2**16)]


def only(*neutral: Any, instead: str = "leave it out") -> AfterValidator:
    """Of a field that is not served: null and `neutral` change nothing; instead: what a client can do."""

    def check(value: Any) -> Any:
        if value is not None and value not in neutral:
            raise ValueError(f"not served; {instead}")
        return value

    return AfterValidator(check)


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
