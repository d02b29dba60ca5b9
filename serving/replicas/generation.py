"""The replica of text-generation: prompts in, OpenAI's choices out, whole or piece by piece.

It knows the generation engine and the shape of a completion's choices; HTTP and server-sent events it does not.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from serving.errors import ServingError
from serving.replicas.engine_loop import EngineLoop
from serving.replicas.failures import failure
from serving.replicas.metrics import HeadMetrics
from serving.replicas.text_threads import TextThreads
from serving.settings import HeadArguments


class GenerationReplica:
    """One causal language model with a continuous-batching engine; many requests share every step.

    A request: prompts (texts or token ids), n, echo, options (of the library, by name), timeout_s.
    """

    def __init__(self, name: str, arguments: HeadArguments) -> None:
        # Imported here: torch costs seconds and memory, and the gateway and the driver need neither.
        import torch

        from bigbird import BigBirdForCausalLM, BigBirdTokenizer, load_model, prepare_for_inference
        from bigbird.errors import CheckpointError
        from bigbird.generation.engine import Engine

        torch.set_num_threads(max(1, int(arguments.num_cpus)))
        started = time.monotonic()
        model = load_model(arguments.checkpoint, dtype="float32", device=arguments.device)
        if not isinstance(model, BigBirdForCausalLM) or not model.config.is_decoder:
            raise CheckpointError(f"{name} needs a decoder (BigBirdForCausalLM); {arguments.checkpoint} is none")
        model = prepare_for_inference(model, dtype=arguments.dtype)
        self._arguments = arguments
        self._config = model.config
        self._tokenizer = BigBirdTokenizer.from_pretrained(arguments.checkpoint)
        self._text = TextThreads()
        self._metrics = HeadMetrics(name)
        self._num_shared_tokens = 0
        cache_tokens = arguments.max_cached_tokens or arguments.max_slots * self._config.max_position_embeddings
        self._engine = Engine(model, self._tokenizer, max_cache_tokens=cache_tokens, max_streams=arguments.max_slots)
        self._loop = EngineLoop(
            self._engine,
            max_waiting=arguments.max_queued_requests,
            max_wait_s=arguments.max_queue_wait_s,
            max_step_s=arguments.max_forward_s,
            on_step=self._report,
        )
        self._load_s = time.monotonic() - started

    async def complete(self, request: dict[str, Any]) -> dict[str, Any]:
        """All choices at once, and the usage."""
        pieces: dict[int, dict[str, Any]] = {}
        usage: dict[str, Any] = {}
        async for event in self.stream(request):
            if "failure" in event:
                return event
            usage = event.get("usage", usage)
            for choice in event.get("choices", ()):
                _join(pieces.setdefault(choice["index"], {**choice, "text": "", "logprobs": None}), choice)
        return {"choices": [pieces[index] for index in sorted(pieces)], "usage": usage}

    async def stream(self, request: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Events with the choices that got text, and last one with the usage; or `{"failure": ...}`, which ends it."""
        try:
            async for event in self._stream(request):
                yield event
        except ServingError as error:
            yield failure(error)

    async def describe(self, request: dict[str, Any]) -> dict[str, Any]:
        """What the model is and how busy, for /info."""
        stats = self._engine.stats
        return {
            "details": {
                "max_position_embeddings": self._config.max_position_embeddings,
                "device": self._arguments.device,
                "dtype": self._arguments.dtype,
                "max_slots": self._arguments.max_slots,
                "num_running": stats.num_prefilling + stats.num_decoding,
                "num_waiting": stats.num_waiting,
                "num_used_cache_tokens": stats.num_used_cache_tokens,
                "num_generated_tokens": stats.num_generated_tokens,
            }
        }

    def check_health(self) -> None:
        """Serve replaces the replica when this raises. Ray forgets a gauge that is not set for some seconds."""
        self._metrics.loaded(self._load_s)
        self._report(0)
        self._loop.check_health()

    async def _stream(self, request: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        started = time.monotonic()
        # Before tokenizing, which a refused request should not cost, and after it, when others may have come first.
        self._loop.check()
        choices = await self._choices(request)
        self._loop.check()
        merged: asyncio.Queue[tuple[_Choice, Any]] = asyncio.Queue()
        readers = [asyncio.create_task(choice.read(self._loop, merged)) for choice in choices]
        try:
            if request["echo"]:
                yield {"choices": [choice.body(choice.prompt_text) for choice in choices]}
            num_open = len(choices)
            first = True
            while num_open:
                left_s = request["timeout_s"] - (time.monotonic() - started)
                try:
                    # Not `wait_for`: in Python 3.11 it forgets that it was cancelled where an event comes just then.
                    async with asyncio.timeout(max(left_s, 0.0)):
                        arrived = [await merged.get()]
                except TimeoutError:
                    raise ServingError(
                        "deadline_exceeded", f"not finished within {request['timeout_s']:.3g} s"
                    ) from None
                while not merged.empty():
                    arrived.append(merged.get_nowait())
                if first:
                    self._metrics.first_token(time.monotonic() - started)
                    first = False
                bodies = []
                for choice, event in arrived:
                    if isinstance(event, Exception):
                        raise _client_error(event)
                    body = choice.take(event)
                    if event.finish_reason is not None:
                        num_open -= 1
                        self._metrics.finished(
                            event.finish_reason,
                            num_prompt_tokens=len(choice.prompt_ids),
                            num_tokens=choice.num_tokens,
                            decode_s=choice.decode_s,
                        )
                    if body is not None:
                        bodies.append(body)
                if bodies:
                    yield {"choices": bodies}
            yield {"usage": _usage(choices, request["n"])}
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)

    async def _choices(self, request: dict[str, Any]) -> list[_Choice]:
        """One choice for each prompt and each of its n continuations, in OpenAI's order."""
        from bigbird.errors import InputError
        from bigbird.generation.generate import encode_prompt
        from bigbird.generation.options import GenerationOptions

        try:
            options = GenerationOptions(**request["options"])
        except InputError as error:
            raise ServingError("invalid_input", str(error)) from None
        choices = []
        for number, prompt in enumerate(request["prompts"]):
            tokenizing = time.monotonic()
            if isinstance(prompt, str):
                limit = self._config.max_position_embeddings
                if await self._text.tokens_at_least(prompt, self._tokenizer, limit) > limit:
                    raise ServingError(
                        "invalid_input", f"prompt: more than {limit} tokens, the model's limit", param="prompt"
                    )
                ids = await self._text.run([prompt], encode_prompt, self._tokenizer, prompt)
                text = prompt
            else:
                ids = list(prompt)
                self._check_ids(ids)
                text = await self._text.run([ids], self._tokenizer.decode, ids, True) if request["echo"] else ""
            self._metrics.tokenized(time.monotonic() - tokenizing)
            for copy in range(request["n"]):
                seed = None if options.seed is None else options.seed + copy
                index = number * request["n"] + copy
                choices.append(_Choice(index, ids, text, replace(options, seed=seed), self._tokenizer, request["echo"]))
        return choices

    def _check_ids(self, ids: list[int]) -> None:
        limit = self._config.vocab_size
        for token in ids:
            if token >= limit:
                raise ServingError(
                    "invalid_input", f"prompt: token id {token}, the limit is {limit - 1}", param="prompt"
                )

    def _report(self, num_tokens: int) -> None:
        stats = self._engine.stats
        self._metrics.generated(
            num_tokens,
            running=stats.num_prefilling + stats.num_decoding,
            waiting=stats.num_waiting,
            num_shared_tokens=stats.num_shared_tokens - self._num_shared_tokens,
            cache_used_share=stats.num_used_cache_tokens
            / max(1, stats.num_used_cache_tokens + stats.num_free_cache_tokens),
        )
        self._num_shared_tokens = stats.num_shared_tokens


class _Choice:
    """One continuation on its way: its events become pieces of a completion's choice."""

    def __init__(
        self, index: int, prompt_ids: list[int], prompt_text: str, options: Any, tokenizer: Any, echo: bool
    ) -> None:
        self.index = index
        self.prompt_ids = prompt_ids
        self.prompt_text = prompt_text
        self.num_tokens = 0
        self.decode_s = 0.0  # from the first token to the last
        self._first_token_at: float | None = None
        self._options = options
        self._tokenizer = tokenizer
        self._offset = len(prompt_text) if echo else 0
        self._waiting: list[Any] = []

    async def read(self, loop: EngineLoop, merged: asyncio.Queue[tuple[_Choice, Any]]) -> None:
        try:
            async for event in loop.generate(self.prompt_ids, self._options):
                merged.put_nowait((self, event))
        except Exception as error:
            merged.put_nowait((self, error))

    def take(self, event: Any) -> dict[str, Any] | None:
        """The piece this event makes, or None while its text is not final: its log-probability waits for it."""
        if event.token_id is not None:
            now = time.monotonic()
            self._first_token_at = self._first_token_at or now
            self.decode_s = now - self._first_token_at
            self.num_tokens += 1
            self._waiting.append(event)
        if not event.text and event.finish_reason is None:
            return None
        logprobs = None
        if self._options.logprobs:
            logprobs = {
                "tokens": [
                    self._tokenizer.decode([item.token_id], skip_special_tokens=False) for item in self._waiting
                ],
                "token_logprobs": [item.logprob for item in self._waiting],
                "top_logprobs": None,
                "text_offset": [self._offset] * len(self._waiting),
            }
        self._waiting = []
        self._offset += len(event.text)
        return self.body(event.text, logprobs, event.finish_reason)

    def body(
        self, text: str, logprobs: dict[str, Any] | None = None, finish_reason: str | None = None
    ) -> dict[str, Any]:
        return {"index": self.index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}


def _join(whole: dict[str, Any], piece: dict[str, Any]) -> None:
    whole["text"] += piece["text"]
    whole["finish_reason"] = piece["finish_reason"]
    if piece["logprobs"] is not None:
        if whole["logprobs"] is None:
            whole["logprobs"] = {"tokens": [], "token_logprobs": [], "top_logprobs": None, "text_offset": []}
        for name in ("tokens", "token_logprobs", "text_offset"):
            whole["logprobs"][name] += piece["logprobs"][name]


def _usage(choices: list[_Choice], n: int) -> dict[str, int]:
    """Tokens read and generated; a prompt counts once, however many continuations it got."""
    prompt_tokens = sum(len(choice.prompt_ids) for choice in choices[::n])
    completion_tokens = sum(choice.num_tokens for choice in choices)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def _client_error(error: Exception) -> Exception:
    from bigbird.errors import InputError

    if isinstance(error, InputError):
        return ServingError("invalid_input", f"prompt: {error}", param="prompt")
    return error
