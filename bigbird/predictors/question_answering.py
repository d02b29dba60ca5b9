"""question-answering: a question and a context in; the span of the context that answers it out.

A long context is read in windows, the question whole before each. Spans of all windows compete by the sum of their
start and end logits; the score is the probability of the best among all pairs of a start and an end that share a
window, [CLS] standing for "no answer". For one window this is the score of transformers' pipeline.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from bigbird.errors import InputError
from bigbird.packing import PackedBatch
from bigbird.predictors.batches import split_rows
from bigbird.predictors.examples import NamedTexts, Prepared, Record, Row, TokenizedText, fields, pair_row
from bigbird.predictors.options import LengthOptions, require_at_least
from bigbird.predictors.predictor import EncoderPredictor
from bigbird.predictors.windows import Window, plan


@dataclass(frozen=True, kw_only=True)
class QuestionAnsweringOptions(LengthOptions):
    """Lengths, and which spans may answer.

    max_answer_len: tokens of the longest answer considered. max_question_len: a question with more tokens is an
    error record (None: it only has to leave room in the window). allow_no_answer: whether the answer may be empty
    (start and end 0), which it is when in every window "no answer" outdoes the best span of all windows.
    """

    max_answer_len: int = 15
    max_question_len: int | None = None
    allow_no_answer: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least("max_answer_len", self.max_answer_len, 1)
        require_at_least("max_question_len", self.max_question_len, 1)


@dataclass(frozen=True, eq=False, kw_only=True)
class PreparedQuestion(Prepared):
    """The context as far as it is read, and its windows, one a row."""

    context: TokenizedText
    windows: tuple[Window, ...]


class QuestionAnsweringPredictor(EncoderPredictor[QuestionAnsweringOptions, PreparedQuestion, list[np.ndarray]]):
    """Predictor for BigBirdForQuestionAnswering. An example is a mapping with question and context."""

    task = "question-answering"
    options_class = QuestionAnsweringOptions
    architectures = ("BigBirdForQuestionAnswering",)
    example_fields = ("question", "context")

    @staticmethod
    def texts_of(example: Any) -> NamedTexts:
        names = ("question", "context")
        return list(zip(names, fields(example, *names), strict=True))

    def build(self, texts: list[TokenizedText], options: QuestionAnsweringOptions) -> PreparedQuestion:
        """Cut the context into windows, the question whole before each."""
        limit = options.length_limit(self.config.max_position_embeddings)
        question, context = texts
        if options.max_question_len is not None and len(question) > options.max_question_len:
            raise InputError(
                f"question has {len(question)} tokens, more than max_question_len={options.max_question_len}"
            )
        windows, truncated = plan(len(context), limit - 3 - len(question), options, what="context")
        kept = windows[-1].stop
        return PreparedQuestion(
            rows=tuple(
                # The head itself gives the context type 1 where a caller gives no types: here as there.
                pair_row(self.tokenizer, question.ids, context.ids[window.start : window.stop], with_types=True)
                for window in windows
            ),
            num_tokens=len(question) + kept,
            num_windows=len(windows),
            truncated=truncated,
            context=context.head(kept),
            windows=windows,
        )

    def read(self, states: Tensor, packed: PackedBatch, rows: list[Row]) -> list[np.ndarray]:
        logits = split_rows(self.model.qa_classifier(states), packed)
        return [np.delete(array, slice(1, row.second), axis=0)[:-1] for array, row in zip(logits, rows, strict=True)]

    def gather(self, item: PreparedQuestion, logits: list[np.ndarray]) -> list[np.ndarray]:
        """For each window the start and end logits of [CLS] and of its tokens of the context,
        (1 + len(window), 2) float32."""
        return logits

    def decode(self, item: PreparedQuestion, logits: list[np.ndarray], options: QuestionAnsweringOptions) -> Record:
        """{"answer", "score", "start", "end"}: characters of the context as given, white space at the ends left
        out, so that answer == context[start:end]."""
        score, first, last = best_span(item.windows, logits, options)
        if first < 0:
            return {"answer": "", "score": score, "start": 0, "end": 0}
        start, end = int(item.context.offsets[first, 0]), int(item.context.offsets[last, 1])
        covered = item.context.text[start:end]
        if answer := covered.strip():
            start += len(covered) - len(covered.lstrip())
            end = start + len(answer)
        return {"answer": item.context.text[start:end], "score": score, "start": start, "end": end}


def best_span(
    windows: Sequence[Window], logits: Sequence[np.ndarray], options: QuestionAnsweringOptions
) -> tuple[float, int, int]:
    """The best answer's probability and its first and last token in the document, both -1 for "no answer".

    logits: one array a window, (1 + len(window), 2): start and end logits of [CLS], then of the window's tokens.
    """
    best, first, last = -np.inf, -1, -1
    no_answer = np.inf
    totals = []
    for window, array in zip(windows, logits, strict=True):
        start, end = array.astype(np.float64).T
        totals.append(np.logaddexp.reduce(start) + np.logaddexp.reduce(end))
        no_answer = min(no_answer, start[0] + end[0])
        start, end = start[1:], end[1:]
        for extra in range(min(options.max_answer_len, len(start))):
            sums = start[: len(start) - extra] + end[extra:]
            place = int(sums.argmax())
            if sums[place] > best:
                best, first, last = sums[place], window.start + place, window.start + place + extra
    if options.allow_no_answer and no_answer > best:
        best, first, last = no_answer, -1, -1
    return float(np.exp(best - np.logaddexp.reduce(totals))), first, last
