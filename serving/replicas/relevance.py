"""How relevant documents are to queries: a cross-encoder's score of the pair, or the cosine of two vectors.

A document of any length is read in windows; its score is that of its best window, whose characters are told. It knows
predictors and records; queues and HTTP it does not know.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from serving.errors import ServingError
from serving.replicas.text_threads import TextThreads
from serving.settings import EMBEDDING

CROSS_ENCODER = "text-classification"


async def score(
    predictor: Any,
    text: TextThreads,
    compute: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]],
    check_lengths: Callable[[list[str], int, Any], Awaitable[None]],
    request: dict[str, Any],
) -> dict[str, Any]:
    """`request`: queries (one, or one a document), documents, options, raw_scores, whole, max_document_tokens.

    compute: from inputs and options to records. check_lengths: refuses texts that no tokenizer should get. raw_scores:
    logits, where a cross-encoder has them. whole: the cosine of the document's own vector, in the place of its best
    window's. max_document_tokens: what is read of a document; None for all of it.

    Gives `results`, one a document: score, start and end (characters of the best window); and records.
    """
    queries, documents, limit = request["queries"], request["documents"], request["max_document_tokens"]
    tokenizer = predictor.tokenizer
    if limit is not None:
        await check_lengths(documents, len(queries) if predictor.task == EMBEDDING else 0, predictor.options)
        documents = await text.run(documents, _beginnings, tokenizer, documents, limit)
    if predictor.task == EMBEDDING:
        inputs: list[Any] = [*queries, *documents]
        options = {**request["options"], "normalize": True, "return_windows": True}
    elif predictor.config.num_labels == 1:
        pairs = zip(queries * len(documents) if len(queries) == 1 else queries, documents, strict=True)
        inputs = [{"text": query, "text_pair": document} for query, document in pairs]
        function = "none" if request["raw_scores"] else "sigmoid"
        options = {**request["options"], "return_windows": True, "combine": "max", "function_to_apply": function}
    else:
        raise ServingError(
            "invalid_input", f"model: it has {predictor.config.num_labels} labels; relevance needs one", param="model"
        )
    outcome = await compute({**request, "inputs": inputs, "options": options})
    records = outcome["records"]
    if predictor.task == EMBEDDING:
        results = await text.run(inputs, _by_vectors, records, len(queries), request["whole"])
    else:
        results = await text.run(inputs, _by_pairs, records, inputs, tokenizer)
    return {**outcome, "results": results, "records": [_facts(record) for record in records]}


def _beginnings(tokenizer: Any, documents: list[str], num_tokens: int) -> list[str]:
    """The documents' first tokens, as texts."""
    encodings = tokenizer.encode_batch(documents, add_special_tokens=False)
    return [
        document[: encoding.offsets[num_tokens - 1][1]] if len(encoding.ids) > num_tokens else document
        for document, encoding in zip(documents, encodings, strict=True)
    ]


def _by_vectors(records: list[dict[str, Any]], num_queries: int, whole: bool) -> list[dict[str, Any]]:
    queries = np.array([record["embedding"] for record in records[:num_queries]], dtype=np.float32)
    results = []
    for index, record in enumerate(records[num_queries:]):
        query = queries[0 if num_queries == 1 else index]
        windows = np.array([window["embedding"] for window in record["windows"]], dtype=np.float32)
        scores = windows @ query
        result = _result(scores, [(window["start"], window["end"]) for window in record["windows"]])
        if whole:
            result["score"] = float(np.array(record["embedding"], dtype=np.float32) @ query)
        results.append(result)
    return results


def _by_pairs(records: list[dict[str, Any]], pairs: list[Any], tokenizer: Any) -> list[dict[str, Any]]:
    queries = {pair["text"] for pair in pairs}
    lengths = {query: len(tokenizer.encode(query, add_special_tokens=False)) for query in queries}
    results = []
    for record, pair in zip(records, pairs, strict=True):
        num_query_tokens = lengths[pair["text"]]
        # Of a pair the longer text is cut: where that is the query, every window has all of the document.
        all_of_it = num_query_tokens >= record["num_tokens"] - num_query_tokens
        spans = [
            (0, len(pair["text_pair"])) if all_of_it else (window["start"], window["end"])
            for window in record["windows"]
        ]
        results.append(_result(np.array([window["labels"][0]["score"] for window in record["windows"]]), spans))
    return results


def _result(scores: np.ndarray, spans: list[tuple[int, int]]) -> dict[str, Any]:
    best = int(scores.argmax())
    return {"score": float(scores[best]), "start": spans[best][0], "end": spans[best][1]}


def _facts(record: dict[str, Any]) -> dict[str, Any]:
    return {name: record[name] for name in ("num_tokens", "num_windows", "truncated")}
