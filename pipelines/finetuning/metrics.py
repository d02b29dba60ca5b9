"""The usual figures of each task on held-out rows, measured through the predictors that score and serve.

Knows records and labels; nothing of training, of Ray, or of how a model is loaded.
"""

import math
import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from bigbird.errors import InputError
from bigbird.predictors import load_predictor
from pipelines.finetuning.documents import COLUMNS, Task

PREDICTOR = {
    "token-classification": "token-classification",
    "text-classification": "text-classification",
    "masked-lm": "masked-lm-scoring",
    "multiple-choice": "multiple-choice",
    "question-answering": "question-answering",
}
_PUNCTUATION = re.compile(rf"[{re.escape(string.punctuation)}]")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
Span = tuple[int, int, str]

LOSS = "eval_loss"
_LOWER_IS_BETTER = (LOSS, "mean_squared_error", "nll", "pseudo_perplexity")


def metrics_of(task: Task, problem_type: str | None) -> tuple[str, ...]:
    """What evaluations of a run may be compared by: the held-out loss, and figures of `measure`."""
    figures = {
        "token-classification": ("f1", "precision", "recall"),
        "text-classification": ("accuracy", "macro_f1"),
        "masked-lm": ("nll", "pseudo_perplexity"),
        "multiple-choice": ("accuracy",),
        "question-answering": ("f1", "exact_match"),
    }.get(task, ())
    of_problem = {"regression": ("mean_squared_error",), "multi_label_classification": ("micro_f1", "macro_f1")}
    return (LOSS, *of_problem.get(problem_type or "", figures))


def best_of(history: Sequence[dict[str, float]], metric: str) -> dict[str, float]:
    """The first of the evaluations with the best value of a metric, which each has."""
    sign = 1 if metric in _LOWER_IS_BETTER else -1
    return min(history, key=lambda entry: sign * entry["loss" if metric == LOSS else metric])


def is_stale(history: Sequence[dict[str, float]], metric: str, patience: int | None) -> bool:
    """Whether the last `patience` evaluations brought nothing better than the best before them."""
    if patience is None or len(history) <= patience:
        return False
    return best_of(history, metric) in history[:-patience]


def measure(
    task: Task, checkpoint: str, documents: Sequence[Mapping[str, Any]], device: str = "cpu"
) -> dict[str, float]:
    """Figures of a checkpoint directory on labelled documents, names to numbers.

    token-classification: precision, recall and F1 over exact spans, together and by class ("f1/PERSON").
    text-classification: accuracy and macro F1 with the majority class beside; micro and macro F1 for several labels;
    mean squared error for a number. multiple-choice: accuracy, with chance beside. question-answering: exact match
    and F1 of words, as SQuAD counts them. masked-lm: pseudo-perplexity, over all tokens.
    Raises InputError where a held-out row cannot be predicted.
    """
    if task == "causal-lm":
        return {}  # no predictor scores a causal model; its held-out loss is the figure, `finetune` reports it
    predictor = load_predictor(PREDICTOR[task], checkpoint, device=device)
    if task == "question-answering" and any(not document["answers"]["text"] for document in documents):
        predictor.options = replace(predictor.options, allow_no_answer=True)
    records = predictor([_example(document, task) for document in documents])
    for number, record in enumerate(records):
        if "error" in record:
            raise InputError(f"evaluation row {number}: {record['error']['message']}")
    return figures(task, documents, records)


def _example(document: Mapping[str, Any], task: Task) -> Any:
    texts = COLUMNS[task][0]
    if texts != ("text",):
        return {name: document[name] for name in texts}
    if document.get("text_pair"):
        return {"text": document["text"], "text_pair": document["text_pair"]}
    return document["text"]


def figures(
    task: Task, documents: Sequence[Mapping[str, Any]], records: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """What `measure` returns, of the documents and the predictor's records for them."""
    if task == "masked-lm":
        tokens = sum(record["num_tokens"] for record in records)
        nll = sum(record["nll"] * record["num_tokens"] for record in records) / tokens
        return {"nll": nll, "pseudo_perplexity": math.exp(nll)}
    if task == "token-classification":
        truth = [{(e["start"], e["end"], e["label"]) for e in document["entities"]} for document in documents]
        found = [{(e["start"], e["end"], e["entity_group"]) for e in record["entities"]} for record in records]
        return span_figures(truth, found)
    if task == "multiple-choice":
        hits = sum(r["best"] == document["label"] for r, document in zip(records, documents, strict=True))
        chance = sum(1 / len(document["choices"]) for document in documents)
        return {"accuracy": hits / len(documents), "chance": chance / len(documents)}
    if task == "question-answering":
        return answer_figures([d["answers"]["text"] for d in documents], [r["answer"] for r in records])
    return _class_figures([document["label"] for document in documents], records)


def _class_figures(labels: Sequence[Any], records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    scores = [{label["label"]: label["score"] for label in record["labels"]} for record in records]
    if isinstance(labels[0], float):
        pairs = zip(scores, labels, strict=True)
        mean = sum(labels) / len(labels)
        return {
            "mean_squared_error": sum((next(iter(s.values())) - y) ** 2 for s, y in pairs) / len(labels),
            "mean_squared_error_of_the_mean": sum((mean - y) ** 2 for y in labels) / len(labels),
        }
    if isinstance(labels[0], list):
        return label_figures(map(set, labels), [{name for name, p in s.items() if p > 0.5} for s in scores])
    best = [max(score, key=score.__getitem__) for score in scores]
    truth = [str(label) for label in labels]
    majority = Counter(truth).most_common(1)[0][1] / len(labels)
    hits = sum(b == t for b, t in zip(best, truth, strict=True))
    macro = label_figures([{t} for t in truth], [{b} for b in best])["macro_f1"]
    return {"accuracy": hits / len(labels), "macro_f1": macro, "majority_accuracy": majority}


def answer_figures(truth: Sequence[Sequence[str]], found: Sequence[str]) -> dict[str, float]:
    """SQuAD's exact match and F1: words without case, punctuation and articles; the best over the given answers."""
    exact, overlap = 0.0, 0.0
    for answers, guess in zip(truth, found, strict=True):
        pairs = [(_words(answer), _words(guess)) for answer in answers or [""]]
        exact += max(float(answer == words) for answer, words in pairs)
        overlap += max(_overlap(answer, words) for answer, words in pairs)
    return {"exact_match": exact / len(found), "f1": overlap / len(found)}


def _words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", _PUNCTUATION.sub("", text.lower())).split()


def _overlap(answer: list[str], guess: list[str]) -> float:
    if not answer or not guess:
        return float(answer == guess)
    return _f1((Counter(answer) & Counter(guess)).total(), len(guess), len(answer))[2]


def span_figures(truth: Iterable[set[Span]], found: Iterable[set[Span]]) -> dict[str, float]:
    """Precision, recall, F1 of exact spans with their label, over all (micro, as seqeval), and F1 by label."""
    hits, guessed, true = Counter[str](), Counter[str](), Counter[str]()
    for right, guesses in zip(truth, found, strict=True):
        hits.update(span[2] for span in right & guesses)
        guessed.update(span[2] for span in guesses)
        true.update(span[2] for span in right)
    precision, recall, f1 = _f1(hits.total(), guessed.total(), true.total())
    by_label = {f"f1/{label}": _f1(hits[label], guessed[label], true[label])[2] for label in sorted(true | guessed)}
    return {"precision": precision, "recall": recall, "f1": f1, **by_label}


def label_figures(truth: Iterable[set[str]], found: Iterable[set[str]]) -> dict[str, float]:
    """Micro and macro F1 of sets of labels; macro over the labels that occur in the truth."""
    hits, guessed, true = Counter[str](), Counter[str](), Counter[str]()
    for right, guesses in zip(truth, found, strict=True):
        hits.update(right & guesses)
        guessed.update(guesses)
        true.update(right)
    macro = sum(_f1(hits[label], guessed[label], true[label])[2] for label in true) / max(1, len(true))
    return {"micro_f1": _f1(hits.total(), guessed.total(), true.total())[2], "macro_f1": macro}


def _f1(hits: int, guessed: int, true: int) -> tuple[float, float, float]:
    precision, recall = hits / max(1, guessed), hits / max(1, true)
    return precision, recall, 2 * hits / max(1, guessed + true)
