"""The replica of a scoring head: lists of inputs in, lists of records out.

A replica tokenizes and runs the model on threads and keeps its event loop free for requests that come and go. It
knows predictors and queues; HTTP it does not know, and what a record means neither.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from serving.errors import ServingError, overloaded
from serving.replicas import answer_size, relevance, spans
from serving.replicas.batching import BatchReport, TokenBudgetBatcher
from serving.replicas.failures import failure
from serving.replicas.health import ModelHealth
from serving.replicas.metrics import HeadMetrics
from serving.replicas.queue_limits import QueueLimits
from serving.replicas.text_threads import TextThreads, pieces, texts_of
from serving.replicas.token_lists import TokenLists
from serving.settings import HeadArguments


class ScoringReplica(TokenLists):
    """One head's model, answering lists of inputs with lists of records.

    An input that needs more than one batch (a document of many windows) goes through the model as a whole. So there
    are two lanes, each with its queue and its thread: whatever fits one batch, and what does not. A short text shares
    the machine with a long one for as long as that takes, and never waits for its end.

    Failures that the client should see come back as `{"failure": ...}`; see `errors.ServingError.to_wire`.
    """

    def __init__(self, name: str, arguments: HeadArguments, *, encoder: Any = None) -> None:
        """encoder: that of another head of this process, of equal weights, to be held in memory once."""
        # Imported here: torch costs seconds and memory, and the gateway and the driver need neither.
        import torch

        from bigbird.predictors import load_predictor

        torch.set_num_threads(max(1, int(arguments.num_cpus)))
        started = time.monotonic()
        self._arguments = arguments
        self._predictor = load_predictor(
            arguments.task,
            arguments.checkpoint,
            device=arguments.device,
            dtype=arguments.dtype,
            max_tokens_per_batch=arguments.max_tokens_per_batch,
            encoder=encoder,
        )
        self._tokenizer, self._config = self._predictor.tokenizer, self._predictor.config
        self._metrics = HeadMetrics(name)
        self._load_s = time.monotonic() - started
        self._num_open = 0
        self._text = TextThreads()
        self._health = ModelHealth(arguments.max_forward_s)
        limits = QueueLimits(
            max_tokens_per_batch=arguments.max_tokens_per_batch,
            max_queued_requests=arguments.max_queued_requests,
            max_queued_tokens=arguments.max_queued_tokens,
            max_queue_wait_s=arguments.max_queue_wait_s,
        )
        # Nothing here refers back to the replica: dropped from a pool, it frees its memory at once.
        forward = partial(_forward, self._predictor, self._health)
        report = partial(_report, self._metrics)
        self._ordinary, self._oversize = (
            TokenBudgetBatcher(partial(_on_thread, thread, forward), limits, on_batch=report)
            for thread in (ThreadPoolExecutor(1, "model"), ThreadPoolExecutor(1, "model"))
        )

    async def score(self, request: dict[str, Any]) -> dict[str, Any]:
        """`request`: inputs, options (of the library, by name), timeout_s. Gives records and timings_s.

        An input of a task that reads one text may be the text's token ids.
        """
        return await self._admitted(request, self._score)

    async def relevance(self, request: dict[str, Any]) -> dict[str, Any]:
        """How relevant documents are to queries: see `relevance`. Gives results, records and timings_s."""
        return await self._admitted(
            request, partial(relevance.score, self._predictor, self._text, self._score, self._check_lengths)
        )

    async def _admitted(
        self, request: dict[str, Any], answer: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
    ) -> dict[str, Any]:
        try:
            # Before tokenizing: what is refused should cost next to nothing, and what waits for the tokenizer counts.
            self._ordinary.check(request["timeout_s"])
            if self._num_open >= self._arguments.max_queued_requests:
                limit = self._arguments.max_queued_requests
                reason = f"{self._num_open} requests are here, the limit is {limit}"
                raise overloaded(reason, self._ordinary.estimated_wait_s(), for_all=True)
            self._num_open += 1
            try:
                return await answer(request)
            finally:
                self._num_open -= 1
                # Batches report this too, but none follows where everybody left.
                self._metrics.queued(self._queued_tokens)
        except ServingError as error:
            return failure(error)

    async def describe(self, request: dict[str, Any]) -> dict[str, Any]:
        """What the model is, for /info."""
        config = self._predictor.config
        return {
            "details": {
                "max_position_embeddings": config.max_position_embeddings,
                "labels": [config.id2label[index] for index in sorted(config.id2label)],
                "device": self._arguments.device,
                "dtype": self._predictor.model.precision,
                "num_open": self._num_open,
                "queued_tokens": self._queued_tokens,
            }
        }

    @property
    def encoder(self) -> Any:
        """The model below the head, for other heads of equal weights."""
        return self._predictor.model.base_model

    def check_health(self, *, of_process: bool = False) -> None:
        """Serve replaces the replica when this raises. Ray forgets a gauge that is not set for some seconds.

        of_process: only what is wrong with every model of this process.
        """
        self._metrics.loaded(self._load_s)
        self._metrics.queued(self._queued_tokens)
        self._health.check(of_process=of_process)

    async def _score(self, request: dict[str, Any]) -> dict[str, Any]:
        started = time.monotonic()
        place = spans.place_of_request()
        predictor, inputs, changes = self._predictor, request["inputs"], request["options"]
        options = with_changes(predictor.options, changes)
        prepared: list[Any] = []
        sizes: list[int] = []
        # Piece by piece: between two of them a client that has left, or a limit that is passed, ends the work.
        for piece in pieces(inputs):
            numbered = enumerate(piece, len(prepared))
            piece = [text_of(self._tokenizer, self._config, example, index) for index, example in numbered]
            await self._check_lengths(piece, len(prepared), options)
            prepared += await self._text.run(piece, predictor.preprocess, piece, options, changes=changes)
            sizes += self._checked_sizes(prepared[len(sizes) :], len(sizes), sum(sizes))
            answer_size.check(predictor, prepared, options)
        tokenize_s = time.monotonic() - started
        self._metrics.tokenized(tokenize_s)
        spans.record(place, "tokenize", tokenize_s, num_inputs=len(inputs), num_tokens=sum(sizes))
        left_s = request["timeout_s"] - (time.monotonic() - started)
        outputs = await self._compute(prepared, sizes, max(left_s, 1e-3), place)
        computed = time.monotonic()
        records = await self._text.run(inputs, predictor.postprocess, prepared, outputs, options, changes=changes)
        for index, record in enumerate(records):
            if "error" in record:
                raise ServingError("internal", f"inputs.{index}: {record['error']['message']}")
        timings_s = {
            "tokenize": tokenize_s,
            "queue_and_model": computed - started - tokenize_s,
            "decode": time.monotonic() - computed,
        }
        spans.record(place, "decode", timings_s["decode"])
        return {"records": records, "timings_s": timings_s}

    async def _check_lengths(self, inputs: Sequence[Any], first: int, options: Any) -> None:
        """Refuses texts with more tokens than may be read, before a tokenizer that cannot be stopped gets them.

        inputs: the first of them is number `first` of its request.
        """
        limit = self._arguments.max_tokens_per_request
        if getattr(options, "on_long", "window") == "truncate":
            limit = options.max_tokens_per_document
        for index, example in enumerate(inputs, first):
            for text in texts_of(example):
                if await self._text.tokens_at_least(text, self._predictor.tokenizer, limit) > limit:
                    raise refused_input(index, f"a text of more than {limit} tokens, the limit")

    def _checked_sizes(self, prepared: Sequence[Any], first: int, num_tokens: int) -> list[int]:
        """Tokens the model reads for each of these inputs, the first of which is number `first` of its request.

        Raises ServingError for an input that failed, or too many tokens with the `num_tokens` of those before.
        """
        sizes = []
        for index, item in enumerate(prepared, first):
            if not hasattr(item, "num_model_tokens"):
                raise refused_input(index, item.record["error"]["message"])
            sizes.append(item.num_model_tokens)
        num_tokens += sum(sizes)
        limit = self._arguments.max_tokens_per_request
        if num_tokens > limit:
            raise ServingError(
                "invalid_input", f"inputs need {num_tokens} tokens or more in the model, the limit is {limit}",
                param="inputs",
            )  # fmt: skip
        return sizes

    async def _compute(self, prepared: Sequence[Any], sizes: Sequence[int], timeout_s: float, place: Any) -> list[Any]:
        """The model's outputs, in order. When one lane refuses its part, what the other has of it is dropped."""
        budget = self._arguments.max_tokens_per_batch
        outputs: list[Any] = [None] * len(prepared)

        async def through(lane: TokenBudgetBatcher, indices: list[int]) -> None:
            items, tokens = [prepared[index] for index in indices], [sizes[index] for index in indices]
            results = await lane.submit(items, tokens, timeout_s=timeout_s, mark=place)
            for index, result in zip(indices, results, strict=True):
                outputs[index] = result

        fits = [index for index, size in enumerate(sizes) if size <= budget]
        beyond = [index for index, size in enumerate(sizes) if size > budget]
        if not beyond:
            await through(self._ordinary, fits)
            return outputs
        parts = [
            asyncio.create_task(through(lane, indices))
            for lane, indices in ((self._ordinary, fits), (self._oversize, beyond))
            if indices
        ]
        try:
            await asyncio.gather(*parts)
        finally:
            for part in parts:
                part.cancel()
        return outputs

    @property
    def _queued_tokens(self) -> int:
        return self._ordinary.queued_tokens + self._oversize.queued_tokens


async def _on_thread(
    thread: ThreadPoolExecutor, forward: Callable[[list[Any]], Sequence[Any]], prepared: list[Any]
) -> Sequence[Any]:
    return await asyncio.get_running_loop().run_in_executor(thread, forward, prepared)


def _forward(predictor: Any, health: ModelHealth, prepared: list[Any]) -> Sequence[Any]:
    with health.watched():
        outputs: Sequence[Any] = predictor.forward(prepared)
        return outputs


def _report(metrics: HeadMetrics, report: BatchReport) -> None:
    metrics.batch(report)
    for place in report.marks:
        spans.record(place, "batch", report.model_s, num_tokens=report.num_tokens, num_pieces=report.num_pieces)


def refused_input(index: int, message: str) -> ServingError:
    """What is wrong with one input of a request."""
    return ServingError("invalid_input", f"inputs.{index}: {message}", param=f"inputs.{index}")


def text_of(tokenizer: Any, config: Any, example: Any, index: int) -> Any:
    """An input as the predictor takes it: token ids become the text that they spell."""
    if not isinstance(example, list):
        return example
    limit = config.vocab_size
    if (largest := max(example)) >= limit:
        message = f"token id {largest}, the limit is {limit - 1}. Ids of another tokenizer? "
        raise refused_input(index, message + "LangChain sends texts with check_embedding_ctx_length=False")
    return tokenizer.decode(example, skip_special_tokens=True)


def with_changes(options: Any, changes: dict[str, Any]) -> Any:
    """The predictor's own options with what the request asks for. Raises ServingError for what they cannot be."""
    import dataclasses

    from bigbird.errors import InputError

    if not changes:
        return options
    known = {field.name for field in dataclasses.fields(options)}
    unknown = sorted(set(changes) - known)
    if unknown:
        raise ServingError(
            "invalid_input", f"parameters.{unknown[0]}: not supported by this head", param=f"parameters.{unknown[0]}"
        )
    try:
        return dataclasses.replace(options, **changes)
    except InputError as error:
        raise ServingError("invalid_input", f"parameters: {error}", param="parameters") from None
