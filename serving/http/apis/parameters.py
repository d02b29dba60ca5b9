"""Parameters of the task endpoints, and which of the library's options each stands for (`options`).

The names are those of the Hugging Face inference API and of text-embeddings-inference; what the library calls otherwise
is in `renamed`. A parameter of the answer's shape, which no option stands for, is left out of `options`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from serving.errors import ServingError
from serving.http.apis.wire import Int, Text, Wire, only

_MAX_CANDIDATE_LABELS = 100


def _at_commas(labels: Any) -> Any:
    return [label for part in labels.split(",") if (label := part.strip())] if isinstance(labels, str) else labels


# What the library says where a client said `truncate: false`.
TRUNCATE = {'on_long is "error"': "truncate is false"}


def in_clients_words(error: ServingError, names: Mapping[str, str]) -> ServingError:
    """The error with the client's names in the place of the library's."""
    for ours, the_clients in names.items():
        error.message = error.message.replace(ours, the_clients)
    return error


class Parameters(Wire):
    """Parameters of every task: what happens to a document that is longer than the model."""

    on_long: Literal["window", "truncate", "error"] | None = Field(
        default=None, description="Read it in overlapping windows (the default), read its beginning, or refuse it."
    )
    window_overlap: Int | None = Field(default=None, ge=0, description="Tokens that neighbouring windows share.")
    max_length: Int | None = Field(
        default=None, ge=3, description="Tokens of one window; the model's limit by default."
    )

    # Field on the wire -> field of the library's options, where the names differ; None: not an option of the
    # library, but of the answer's shape.
    renamed: ClassVar[dict[str, str | None]] = {}

    @model_validator(mode="after")
    def _check_one_name(self) -> Self:
        for name, other in self.renamed.items():
            if (
                other in type(self).model_fields
                and getattr(self, name) is not None
                and getattr(self, other) is not None
            ):
                raise ValueError(f"{name} is another name for {other}; send one of them")
        return self

    @property
    def names(self) -> dict[str, str]:
        """The names that this request uses, by the library's."""
        return {
            f"{ours} is": f"{name} is"
            for name, ours in self.renamed.items()
            if ours and getattr(self, name) is not None
        }

    def options(self) -> dict[str, Any]:
        """The library's options this request sets; what is left out keeps the library's default."""
        given = {name: value for name, value in self.model_dump().items() if value is not None}
        named = {self.renamed.get(name, name): value for name, value in given.items()}
        return {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in named.items()
            if name is not None
        }


class WindowParameters(Parameters):
    """Parameters of a task that can say what each window of a document gave."""

    return_windows: bool | None = Field(
        default=None,
        description="Answer with an object that also has `windows`: of each its first character, the one past its "
        "last, and its own result.",
    )


class FillMaskParameters(Parameters):
    top_k: Int | None = Field(default=None, ge=1, le=1000, description="Candidates for each mask; 5 by default.")
    targets: Annotated[list[Text], Field(fail_fast=True, min_length=1, max_length=1000)] | None = Field(
        default=None, description="Only these compete; each has to be one token."
    )
    return_sequence: bool | None = Field(
        default=None, description="Whether a candidate has `sequence`; by default where the text has one mask."
    )
    renamed: ClassVar[dict[str, str | None]] = {"return_sequence": None}


class TokenClassificationParameters(Parameters):
    aggregation_strategy: Literal["none", "simple", "first", "average", "max", "words"] | None = Field(
        default=None, description='What the checkpoint asks for, or "simple", by default.'
    )
    ignore_labels: Annotated[list[Text], Field(fail_fast=True, max_length=1000)] | None = Field(
        default=None, description='["O"] by default.'
    )
    stride: Int | None = Field(default=None, ge=0, description="Another name for window_overlap.")
    renamed: ClassVar[dict[str, str | None]] = {"stride": "window_overlap"}


class TextClassificationParameters(WindowParameters):
    function_to_apply: Literal["sigmoid", "softmax", "none"] | None = None
    top_k: Int | None = Field(default=None, ge=1, description="Labels in the answer; all by default.")
    combine: Literal["mean", "max"] | None = Field(
        default=None, description="How the windows of a long text are joined."
    )


class ZeroShotClassificationParameters(WindowParameters):
    candidate_labels: Annotated[
        Annotated[list[Text], Field(fail_fast=True, min_length=1, max_length=_MAX_CANDIDATE_LABELS)],
        BeforeValidator(_at_commas),
    ] = Field(description="The labels to choose among; a text is split at its commas.", examples=[["travel", "food"]])
    hypothesis_template: Text | None = Field(
        default=None, max_length=1000, description='The sentence of a label; "This example is {}." by default.'
    )
    multi_label: bool | None = Field(default=None, description="Each label by itself, yes or no.")
    combine: Literal["mean", "max"] | None = Field(
        default=None, description="How the windows of a long text are joined."
    )


class QuestionAnsweringParameters(WindowParameters):
    max_answer_len: Int | None = Field(default=None, ge=1, description="Longest answer, in tokens.")
    max_question_len: Int | None = Field(
        default=None, ge=1, description="Tokens of the longest question that is taken; a longer one is refused."
    )
    max_seq_len: Int | None = Field(default=None, ge=8, description="Another name for max_length.")
    doc_stride: Int | None = Field(default=None, ge=0, description="Another name for window_overlap.")
    handle_impossible_answer: bool | None = Field(default=None, description="Whether the answer may be empty.")
    align_to_words: bool | None = Field(
        default=None, description="Widen the answer to whole words (the default); false for languages without spaces."
    )
    top_k: Int | None = Field(default=None, ge=1, le=100, description="Above 1: a list of so many answers.")
    renamed: ClassVar[dict[str, str | None]] = {
        "max_seq_len": "max_length",
        "doc_stride": "window_overlap",
        "handle_impossible_answer": "allow_no_answer",
    }


class MultipleChoiceParameters(Parameters):
    combine: Literal["mean", "max"] | None = Field(
        default=None, description="How the windows of a long prompt are joined."
    )


class MaskedLMScoringParameters(WindowParameters):
    metric: Literal["passes", "exact", "within_word_l2r"] | None = Field(
        default=None, description='Masks many tokens at once (the default), or one at a time as published: "exact".'
    )
    num_passes: Int | None = Field(
        default=None, ge=2, le=64, description="Each token is masked in one of these passes."
    )
    return_tokens: bool | None = Field(default=None, description="Also answer with every token's own value.")


class FeatureExtractionParameters(WindowParameters):
    normalize: bool | None = Field(default=None, description="Scale each vector to length 1.")
    pooling: Literal["mean", "cls"] | None = None
    truncate: bool | None = Field(default=None, description='true is on_long "truncate", false is "error".')
    truncation_direction: Literal["left", "right", "Left", "Right"] | None = Field(
        default=None, description='Which end is cut with truncate; "right" by default.'
    )
    dimensions: Int | None = Field(default=None, ge=1, description="So many of each vector's first numbers.")
    encoding_format: Literal["float", "base64"] | None = Field(
        default=None, description='"base64": float32 numbers, little-endian, as one text.'
    )
    prompt_name: Annotated[Any, only(instead="put the prompt before the text")] = None
    renamed: ClassVar[dict[str, str | None]] = {"dimensions": None, "encoding_format": None}

    @model_validator(mode="after")
    def _check_truncate(self) -> Self:
        if self.truncate is not None and self.on_long is not None:
            raise ValueError("truncate is another name for on_long; send one of them")
        return self

    @property
    def names(self) -> dict[str, str]:
        return {**super().names, **(TRUNCATE if self.truncate is not None else {})}

    def options(self) -> dict[str, Any]:
        options = super().options()
        truncate = options.pop("truncate", None)
        if truncate is not None:
            options["on_long"] = "truncate" if truncate else "error"
        side = options.pop("truncation_direction", "right").lower()
        # Where nothing is cut it does not matter which end would be.
        if side == "left" and options.get("on_long") == "truncate":
            options["truncation_side"] = side
        return options
