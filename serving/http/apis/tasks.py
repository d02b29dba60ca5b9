"""The task endpoints as one table: path, request type, answer type, and how records become the answer.

It knows the Hugging Face inference API's shapes; the records themselves come from the library as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from serving.errors import ServingError
from serving.http import answers
from serving.http.apis import parameters, schemas, vectors
from serving.settings import GatewayArguments
from serving.texts import num_characters

Record = dict[str, Any]

# Of one fill-mask answer. A `sequence` repeats the whole text for each candidate.
MAX_CANDIDATES = 10_000
MAX_SEQUENCE_CHARACTERS = 4 * 2**20
_DEFAULT_TOP_K = 5


@dataclass(frozen=True, kw_only=True)
class Task:
    """One endpoint. `shape(record, example, parameters)` is the answer for one input.

    check: raises ServingError for a request whose answer, or whose cost, would be too large.
    """

    name: str
    summary: str
    request: type[schemas.TaskRequest]
    answer: Any
    shape: Callable[[Record, Any, Any], Any]
    always_list: bool = False
    check: Callable[[Any, GatewayArguments], None] = lambda request, arguments: None

    def answer_for(self, request: schemas.TaskRequest, records: Sequence[Record]) -> Any:
        """The whole answer: of one input bare, of a list as a list; `always_list` is a list for one input too."""
        answers = [
            self.shape(record, example, request.parameters)
            for record, example in zip(records, request.inputs, strict=True)
        ]
        return answers[0] if request.single and not self.always_list else answers


def _fill_mask(record: Record, text: str, parameters: parameters.FillMaskParameters) -> Any:
    """A list of candidates for one mask, a list of such lists for several."""
    masks = record["masks"]
    if _with_sequence(len(masks), parameters):
        shaped = [
            [
                {**candidate, "sequence": _replaced(text, mask["position"], candidate["token_str"])}
                for candidate in mask["candidates"]
            ]
            for mask in masks
        ]
    else:
        shaped = [mask["candidates"] for mask in masks]
    return shaped[0] if len(shaped) == 1 else shaped


def _with_sequence(num_masks: int, parameters: parameters.FillMaskParameters) -> bool:
    return num_masks == 1 if parameters.return_sequence is None else parameters.return_sequence


def _check_fill_mask(request: schemas.FillMaskRequest, _: GatewayArguments) -> None:
    parameters = request.parameters
    top_k = parameters.top_k or _DEFAULT_TOP_K
    num_candidates = num_sent = 0
    for text in request.inputs:
        num_masks = text.count("[MASK]")
        num_candidates += num_masks * top_k
        if _with_sequence(num_masks, parameters):
            num_sent += num_masks * top_k * len(text)
    if num_candidates > MAX_CANDIDATES:
        raise ServingError(
            "invalid_input",
            f"parameters.top_k: {top_k} candidates for every mask are {num_candidates}, the limit is {MAX_CANDIDATES}",
            param="parameters.top_k",
        )
    if num_sent > MAX_SEQUENCE_CHARACTERS:
        raise ServingError(
            "invalid_input",
            f"parameters.return_sequence: the text repeated for every candidate is {num_sent} characters, "
            f"the limit is {MAX_SEQUENCE_CHARACTERS}; false leaves it out",
            param="parameters.return_sequence",
        )


def _replaced(text: str, position: int, token_str: str) -> str:
    # A mask swallows the space before it, and a token carries its own: so the space is not doubled.
    before, after = text[:position], text[position + len("[MASK]") :]
    return before + (token_str.lstrip() if before[-1:].isspace() or not before else token_str) + after


def _check_zero_shot(request: schemas.ZeroShotClassificationRequest, arguments: GatewayArguments) -> None:
    """Every text is read once for each label: so many characters count as read."""
    num_read = len(request.parameters.candidate_labels) * sum(map(num_characters, request.inputs))
    limit = arguments.max_characters_per_request
    if num_read > limit:
        raise ServingError(
            "invalid_input", f"inputs, read once for each label, are {num_read} characters, the limit is {limit}",
            param="inputs",
        )  # fmt: skip


def _entities(record: Record, _text: str, _: Any) -> Any:
    return record["entities"]


def _labels(record: Record, _text: Any, _: Any) -> Any:
    """The labels; with return_windows an object, for a list has no room for more."""
    return _with_windows(record, "labels") if "windows" in record else record["labels"]


def _answers(record: Record, _example: Any, _: Any) -> Any:
    """The best answer; a list where several are asked for; with return_windows an object in any case."""
    best = {name: record[name] for name in ("answer", "score", "start", "end")}
    if "windows" in record:
        return {**best, "answers": record.get("answers", [best]), "windows": record["windows"]}
    return record.get("answers", best)


def _embedding(record: Record, _text: str, parameters: parameters.FeatureExtractionParameters) -> Any:
    def sent(vector: list[float]) -> Any:
        shortened = vectors.shortened(vector, parameters.dimensions, unit=bool(parameters.normalize))
        return vectors.base64_of(shortened) if parameters.encoding_format == "base64" else shortened

    embedding = sent(record["embedding"])
    if "windows" not in record:
        return embedding
    windows = [{**window, "embedding": sent(window["embedding"])} for window in record["windows"]]
    return {"embedding": embedding, "windows": windows}


def _fields(*names: str) -> Callable[[Record, Any, Any], Any]:
    def shape(record: Record, _example: Any, _parameters: Any) -> Any:
        return _with_windows(record, *names)

    return shape


def _with_windows(record: Record, *names: str) -> Record:
    return {name: record[name] for name in (*names, "windows") if name in record}


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            name="fill-mask",
            summary="Candidates for each [MASK] of a text.",
            request=schemas.FillMaskRequest,
            answer=list[answers.Candidate] | list[list[answers.Candidate]] | list[list[list[answers.Candidate]]],
            shape=_fill_mask,
            check=_check_fill_mask,
        ),
        Task(
            name="token-classification",
            summary="Entities with their places in the text.",
            request=schemas.TokenClassificationRequest,
            answer=list[answers.Entity] | list[list[answers.Entity]],
            shape=_entities,
        ),
        Task(
            name="text-classification",
            summary="Labels of a text or a pair of texts, the most probable first.",
            request=schemas.TextClassificationRequest,
            answer=list[list[answers.LabelScore] | answers.Labels],
            shape=_labels,
            always_list=True,
        ),
        Task(
            name="zero-shot-classification",
            summary="Labels of your own, each with its score, the most probable first.",
            request=schemas.ZeroShotClassificationRequest,
            answer=list[answers.LabelScore] | answers.Labels | list[list[answers.LabelScore] | answers.Labels],
            shape=_labels,
            check=_check_zero_shot,
        ),
        Task(
            name="multiple-choice",
            summary="The likeliest of several continuations.",
            request=schemas.MultipleChoiceRequest,
            answer=answers.Choice | list[answers.Choice],
            shape=_fields("choices", "best"),
        ),
        Task(
            name="question-answering",
            summary="The span of a context that answers a question.",
            request=schemas.QuestionAnsweringRequest,
            answer=answers.Answer | list[answers.Answer] | list[list[answers.Answer]],
            shape=_answers,
        ),
        Task(
            name="feature-extraction",
            summary="One vector a text.",
            request=schemas.FeatureExtractionRequest,
            answer=list[list[float] | str | answers.Embedded],
            shape=_embedding,
            always_list=True,
        ),
        Task(
            name="masked-lm-scoring",
            summary="How surprising a text is: mean negative log-likelihood and pseudo-perplexity.",
            request=schemas.MaskedLMScoringRequest,
            answer=answers.TextScore | list[answers.TextScore],
            shape=_fields("nll", "pseudo_perplexity", "tokens"),
        ),
    )
}
