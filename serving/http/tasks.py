"""The task endpoints as one table: path, request type, answer type, and how records become the answer.

It knows the Hugging Face inference API's shapes; the records themselves come from the library as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from serving.http import schemas

Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One endpoint. `shape(record, example, parameters)` is the answer for one input."""

    name: str
    summary: str
    request: type[schemas.TaskRequest]
    answer: Any
    shape: Callable[[Record, Any, Any], Any]
    always_list: bool = False

    def answer_for(self, request: schemas.TaskRequest, records: Sequence[Record]) -> Any:
        """The whole answer: of one input bare, of a list as a list; `always_list` is a list for one input too."""
        answers = [
            self.shape(record, example, request.parameters)
            for record, example in zip(records, request.inputs, strict=True)
        ]
        return answers[0] if request.single and not self.always_list else answers


def _fill_mask(record: Record, text: str, _: Any) -> Any:
    """A list of candidates for one mask, a list of such lists for several."""
    masks = [
        [
            {**candidate, "sequence": _replaced(text, mask["position"], candidate["token_str"])}
            for candidate in mask["candidates"]
        ]
        for mask in record["masks"]
    ]
    return masks[0] if len(masks) == 1 else masks


def _replaced(text: str, position: int, token_str: str) -> str:
    # A mask swallows the space before it, and a token carries its own: so the space is not doubled.
    before, after = text[:position], text[position + len("[MASK]") :]
    return before + (token_str.lstrip() if before[-1:].isspace() or not before else token_str) + after


def _entities(record: Record, _text: str, _: Any) -> Any:
    return record["entities"]


def _labels(record: Record, _text: Any, parameters: schemas.TextClassificationParameters) -> Any:
    return record["labels"][: parameters.top_k]


def _fields(*names: str) -> Callable[[Record, Any, Any], Any]:
    def shape(record: Record, _example: Any, _parameters: Any) -> Any:
        return {name: record[name] for name in names if name in record}

    return shape


def _embedding(record: Record, _text: str, _: Any) -> Any:
    return record["embedding"]


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            name="fill-mask",
            summary="Candidates for each [MASK] of a text.",
            request=schemas.FillMaskRequest,
            answer=list[schemas.Candidate] | list[list[schemas.Candidate]] | list[list[list[schemas.Candidate]]],
            shape=_fill_mask,
        ),
        Task(
            name="token-classification",
            summary="Entities with their places in the text.",
            request=schemas.TokenClassificationRequest,
            answer=list[schemas.Entity] | list[list[schemas.Entity]],
            shape=_entities,
        ),
        Task(
            name="text-classification",
            summary="Labels of a text or a pair of texts, the most probable first.",
            request=schemas.TextClassificationRequest,
            answer=list[list[schemas.LabelScore]],
            shape=_labels,
            always_list=True,
        ),
        Task(
            name="multiple-choice",
            summary="The likeliest of several continuations.",
            request=schemas.MultipleChoiceRequest,
            answer=schemas.Choice | list[schemas.Choice],
            shape=_fields("choices", "best"),
        ),
        Task(
            name="question-answering",
            summary="The span of a context that answers a question.",
            request=schemas.QuestionAnsweringRequest,
            answer=schemas.Answer | list[schemas.Answer],
            shape=_fields("answer", "score", "start", "end"),
        ),
        Task(
            name="feature-extraction",
            summary="One vector a text.",
            request=schemas.FeatureExtractionRequest,
            answer=list[list[float]],
            shape=_embedding,
            always_list=True,
        ),
        Task(
            name="masked-lm-scoring",
            summary="How surprising a text is: mean negative log-likelihood and pseudo-perplexity.",
            request=schemas.MaskedLMScoringRequest,
            answer=schemas.TextScore | list[schemas.TextScore],
            shape=_fields("nll", "pseudo_perplexity", "tokens"),
        ),
    )
}
