"""question-answering: a question and a context in; the span of the context that answers it out.

A long context is read in windows, the question whole before each. Spans of all windows compete by the sum of their
start and end logits; the score is the probability of the best among all pairs of a start and an end that share a
window, [CLS] standing for "no answer". For one window this is the score of transformers' pipeline.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from bigbird.errors import InputError
from bigbird.packing import PackedBatch
from bigbird.predictors.batches import split_rows
from bigbird.predictors.examples import NamedTexts, Prepared, Record, Row, fields, pair_row, spans
from bigbird.predictors.predictor import EncoderPredictor
from bigbird.predictors.tasks import QuestionAnsweringOptions
from bigbird.predictors.texts import TokenizedText
from bigbird.predictors.windows import Window, cut_document, num_doubled


class Span(NamedTuple):
    """An answer's probability, and its first and last token in the document; both -1 for "no answer"."""

    score: float
    first: int
    last: int


@dataclass(frozen=True, eq=False, kw_only=True)
class PreparedQuestion(Prepared):
    """The context as far as it is read, and its windows, one a row."""

    context: TokenizedText
    windows: tuple[Window, ...]


class QuestionAnsweringPredictor(EncoderPredictor[QuestionAnsweringOptions, PreparedQuestion, list[np.ndarray]]):
    """Predictor for BigBirdForQuestionAnswering. An example is a mapping with question and context."""

    task = "question-answering"
    example_fields = ("question", "context")

    @staticmethod
    def texts_of(example: Any) -> NamedTexts:
        names = ("question", "context")
        return list(zip(names, fields(example, *names), strict=True))

    def reads_words(self, options: QuestionAnsweringOptions) -> bool:
        return True  # a call may ask postprocess to align

    def build(self, texts: list[TokenizedText], options: QuestionAnsweringOptions) -> PreparedQuestion:
        """Cut the context into windows, the question whole before each."""
        limit = options.length_limit(self.config.max_position_embeddings)
        question, context = texts
        if options.max_question_len is not None and len(question) > options.max_question_len:
            raise InputError(
                f"question has {len(question)} tokens, more than max_question_len={options.max_question_len}"
            )
        windows, truncated = cut_document(len(context), limit - 3 - len(question), options, what="context")
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
            num_lost=len(context) - kept,
            num_doubled=num_doubled(windows),
            spans=spans(context, windows, options),
            context=context.head(kept),
            windows=windows,
        )

    def read(self, states: Tensor, packed: PackedBatch, rows: list[Row]) -> tuple[Tensor]:
        return (self.model.qa_classifier(states).float(),)

    def split(self, arrays: list[np.ndarray], packed: PackedBatch, rows: list[Row]) -> list[np.ndarray]:
        logits = split_rows(arrays[0], packed)
        return [np.delete(array, slice(1, row.second), axis=0)[:-1] for array, row in zip(logits, rows, strict=True)]

    def gather(self, item: PreparedQuestion, logits: list[np.ndarray]) -> list[np.ndarray]:
        """For each window the start and end logits of [CLS] and of its tokens of the context,
        (1 + len(window), 2) float32."""
        return logits

    def decode(self, item: PreparedQuestion, logits: list[np.ndarray], options: QuestionAnsweringOptions) -> Record:
        """{"answer", "score", "start", "end"}: characters of the context as given, white space at the ends left
        out, so that answer == context[start:end]. With top_k above 1 also "answers": such records, the best first."""
        spans = best_spans(item.windows, logits, options)
        answers = [self._answer(item.context, span, options.align_to_words) for span in spans]
        return answers[0] if options.top_k == 1 else {**answers[0], "answers": answers}

    def decode_windows(
        self, item: PreparedQuestion, logits: list[np.ndarray], options: QuestionAnsweringOptions
    ) -> list[Record]:
        """{"answers": the best of the window, top_k of them}; scores are among the window's own spans."""
        return [
            {
                "answers": [
                    self._answer(item.context, span, options.align_to_words)
                    for span in best_spans([window], [array], options)
                ]
            }
            for window, array in zip(item.windows, logits, strict=True)
        ]

    def _answer(self, context: TokenizedText, span: Span, align_to_words: bool) -> Record:
        if span.first < 0:
            return {"answer": "", "score": span.score, "start": 0, "end": 0}
        first, last = span.first, span.last
        if align_to_words:
            first, last = context.word_of(first)[0], context.word_of(last)[1]
        start, end = int(context.offsets[first, 0]), int(context.offsets[last, 1])
        covered = context.text[start:end]
        if answer := covered.strip():
            start += len(covered) - len(covered.lstrip())
            end = start + len(answer)
        return {"answer": context.text[start:end], "score": span.score, "start": start, "end": end}


def best_spans(
    windows: Sequence[Window], logits: Sequence[np.ndarray], options: QuestionAnsweringOptions
) -> list[Span]:
    """The likeliest answers of all windows, the best first; at most top_k.

    logits: one array a window, (1 + len(window), 2): start and end logits of [CLS], then of the window's tokens.
    """
    sums: dict[tuple[int, int], float] = {}
    no_answer = np.inf
    totals = []
    for window, array in zip(windows, logits, strict=True):
        start, end = array.astype(np.float64).T
        totals.append(np.logaddexp.reduce(start) + np.logaddexp.reduce(end))
        no_answer = min(no_answer, start[0] + end[0])
        for value, first, last in _best_in_window(start[1:], end[1:], options):
            place = (window.start + first, window.start + last)
            sums[place] = max(value, sums.get(place, -np.inf))
    if options.allow_no_answer:
        sums[-1, -1] = no_answer
    total = np.logaddexp.reduce(totals)
    best = sorted(sums, key=lambda place: (-sums[place], place[0] < 0, place))[: options.top_k]
    return [Span(float(np.exp(sums[place] - total)), *place) for place in best]


def _best_in_window(
    start: np.ndarray, end: np.ndarray, options: QuestionAnsweringOptions
) -> list[tuple[float, int, int]]:
    """The best spans of one window: sum of logits, first and last token."""
    found: list[tuple[float, int, int]] = []
    for extra in range(min(options.max_answer_len, len(start))):
        sums = start[: len(start) - extra] + end[extra:]
        count = min(options.top_k, len(sums))
        places = [int(sums.argmax())] if count == 1 else np.argpartition(-sums, count - 1)[:count].tolist()
        found += [(float(sums[place]), place, place + extra) for place in places]
    return found
