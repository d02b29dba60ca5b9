"""A live endpoint that scores rows in the place of a model here: `POST URL/v1/TASK`, one row a request.

Knows the wire format of the task endpoints, which is Hugging Face's, and what a record calls its answers.
"""

import dataclasses
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from bigbird.errors import InputError
from bigbird.predictors import OPTIONS
from pipelines.scoring.actors.score_rows import Stage, StagedScore
from pipelines.scoring.proof.rows import Answer

API_KEY = "BIGBIRD_API_KEY"

_TIMEOUT_S = 300.0
_TOLD_CHARS = 200
_RETRIED = (429, 502, 503, 504)
_PAUSES_S = (1.0, 4.0, 15.0)

# What the answer for one input is in a record, unless it has the record's own names already.
_RECORDS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "fill-mask": lambda answer: {
        "masks": [{"candidates": one} for one in (answer if isinstance(answer[0], list) else [answer])]
    },
    "token-classification": lambda answer: {"entities": answer},
    "text-classification": lambda answer: {"labels": answer},
    "zero-shot-classification": lambda answer: {"labels": answer},
    "multiple-choice": lambda answer: {"scores": answer["choices"], "best": answer["best"]},
    "question-answering": lambda answer: {**answer[0], "answers": answer} if isinstance(answer, list) else answer,
    "feature-extraction": lambda answer: {"embedding": answer},
    "masked-lm-scoring": lambda answer: answer,
}
_IN_A_LIST = ("text-classification", "feature-extraction")
_PARAMETERS = {"allow_no_answer": "handle_impossible_answer"}


def asking(url: str) -> Callable[[Stage], Answer]:
    """What asks the server at `url`, with the key in BIGBIRD_API_KEY where there is one.

    Raises InputError for what is no address of a server; what it makes does so for one that does not answer as the
    task endpoints do.
    """
    if not url.startswith(("http://", "https://")):
        raise InputError(f"endpoint {url!r}: expected http://HOST:PORT or https://HOST")

    def of_stage(stage: Stage) -> Answer:
        for score in stage.scores:
            if score.task not in _RECORDS:
                raise InputError(f"--endpoint: {score.task} has no task endpoint; the tasks are {', '.join(_RECORDS)}")

        def answer(rows: pa.Table) -> list[list[dict[str, Any]]]:
            of_rows = stage.examples(rows)
            return [
                [_record(url, score, of_row[number]) for of_row in of_rows] for number, score in enumerate(stage.scores)
            ]

        return answer

    return of_stage


def _record(url: str, score: StagedScore, example: Any) -> dict[str, Any]:
    if example is None:  # JSON has no text that is null
        return {"error": {"type": "InputError"}}
    parameters = {_PARAMETERS.get(name, name): value for name, value in _chosen(score).items()}
    body = json.dumps({"inputs": example, "parameters": parameters}).encode()
    try:
        answer = _post(f"{url.rstrip('/')}/v1/{score.task}", body)
    except urllib.error.HTTPError as error:
        with error:
            told = error.read(2000).decode(errors="replace")
        if error.code in (400, 413, 422) and "parameters" not in told:
            return {"error": {"type": "InputError"}}
        key = f"; the key it asks for stands in {API_KEY}" if error.code in (401, 403) else ""
        raise InputError(f"endpoint {url} answers {error.code} for {score.task}: {told}{key}") from error
    except (OSError, http.client.HTTPException) as error:
        raise InputError(f"endpoint {url} does not answer: {getattr(error, 'reason', None) or error!r}") from error
    except ValueError as error:
        raise InputError(f"endpoint {url} answers {score.task} with what is no JSON: {error}") from error
    try:
        one = answer[0] if score.task in _IN_A_LIST else answer
        with_windows = isinstance(one, dict) and "windows" in one
        return one if with_windows else _RECORDS[score.task](one)
    except (LookupError, TypeError) as error:
        told = json.dumps(answer)[:_TOLD_CHARS]
        raise InputError(f"endpoint {url} answers {score.task} in another form: {told}") from error


def _chosen(score: StagedScore) -> dict[str, Any]:
    """The options that are not the task's defaults: those a server need be told."""
    if score.options is None:
        return {}
    default = dataclasses.asdict(OPTIONS[score.task]())
    return {name: value for name, value in dataclasses.asdict(score.options).items() if value != default[name]}


def _post(url: str, body: bytes) -> Any:
    key = os.environ.get(API_KEY)
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    request = urllib.request.Request(url, body, headers)
    for pause_s in _PAUSES_S:
        try:
            return _answer(request)
        except urllib.error.HTTPError as error:
            if error.code not in _RETRIED:
                raise
            error.close()
            time.sleep(pause_s)
    return _answer(request)


def _answer(request: urllib.request.Request) -> Any:
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
        return json.load(response)
