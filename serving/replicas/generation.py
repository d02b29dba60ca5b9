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
from serving.replicas import spans
from serving.replicas.choices import Choice, Prompt, join
from serving.replicas.choices import usage as usage_of
from serving.replicas.completion_limits import check_cost, client_error, room_for, too_long
from serving.replicas.engine_loop import EngineLoop
from serving.replicas.failures import failure
from serving.replicas.metrics import HeadMetrics
from serving.replicas.text_threads import TextThreads
from serving.replicas.token_lists import TokenLists
from serving.replicas.token_names import TokenNames, beginnings
from serving.replicas.token_streams import TokenStreams
from serving.settings import HeadArguments


class GenerationReplica(TokenLists, TokenStreams):
    """One causal language model with a continuous-batching engine; many requests share every step.

    A request: prompts (texts or token ids); n, how many choices each gets, the likeliest a token of best_of; echo;
    options (of the library, by name; without max_new_tokens, OpenAI's default), timeout_s.
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
        self._names = TokenNames(self._tokenizer)
        self._text = TextThreads()
        self._metrics = HeadMetrics(name)
        self._num_shared_tokens = 0
        self._engine = Engine(
            model, self._tokenizer, max_cache_tokens=arguments.max_cached_tokens, max_streams=arguments.max_slots
        )
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
        started, num_copies = time.monotonic(), _num_copies(request)
        whole: dict[int, dict[str, Any]] = {}
        usage: dict[str, Any] = {}
        try:
            choices = await self._choices(request)
            async for event in self._events(choices, request, started):
                usage = event.get("usage", usage)
                for piece in event.get("choices", ()):
                    join(whole.setdefault(piece["index"], {**piece, "text": "", "logprobs": None}), piece)
        except ServingError as error:
            return failure(error)
        kept = []
        for start in range(0, len(choices), num_copies):
            of_prompt = choices[start : start + num_copies]
            if request["n"] < num_copies:  # the likeliest a token
                of_prompt.sort(key=lambda choice: choice.sum_logprobs / max(1, choice.num_tokens), reverse=True)
            kept += of_prompt[: request["n"]]
        return {
            "choices": [{**whole[choice.index], "index": index} for index, choice in enumerate(kept)],
            "usage": usage,
        }

    async def stream(self, request: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Events with the choices that got text, and last one with the usage; or `{"failure": ...}`, which ends it."""
        started = time.monotonic()
        try:
            async for event in self._events(await self._choices(request), request, started):
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
                "dtype": self._engine.model.precision,
                "max_slots": self._arguments.max_slots,
                "num_running": stats.num_running,
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

    async def _events(
        self, choices: list[Choice], request: dict[str, Any], started: float
    ) -> AsyncIterator[dict[str, Any]]:
        merged: asyncio.Queue[tuple[Choice, Any]] = asyncio.Queue()
        running = [choice for choice in choices if choice.needs_engine]
        readers = [asyncio.create_task(choice.read(self._loop, merged)) for choice in running]
        try:
            if bodies := [choice.begin() for choice in choices if choice.begins_at_once or not choice.needs_engine]:
                yield {"choices": bodies}
            num_open = len(running)
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
                        raise client_error(event)
                    body = choice.take(event)
                    if event.finish_reason is not None:
                        num_open -= 1
                        self._metrics.finished(
                            event.finish_reason,
                            num_prompt_tokens=len(choice.prompt.ids),
                            num_tokens=choice.num_tokens,
                            decode_s=choice.decode_s,
                        )
                    if body is not None:
                        bodies.append(body)
                if bodies:
                    yield {"choices": bodies}
            yield {"usage": usage_of(choices, _num_copies(request))}
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)

    async def _choices(self, request: dict[str, Any]) -> list[Choice]:
        """One choice for each prompt and each of its `best_of` continuations, in OpenAI's order."""
        from bigbird.errors import InputError
        from bigbird.generation.options import GenerationOptions

        # Before tokenizing, which a refused request should not cost, and after it, when others may have come first.
        self._loop.check()
        echo, shown, num_copies = request["echo"], request["options"].get("logprobs", False), _num_copies(request)
        scored = echo and shown
        max_tokens = request["options"].get("max_new_tokens")
        prompts = []
        place, started = spans.place_of_request(), time.monotonic()
        for prompt in request["prompts"]:
            tokenizing = time.monotonic()
            prompts.append(await self._prompt(prompt, with_text=echo, with_begins=scored, ends=max_tokens == 0))
            self._metrics.tokenized(time.monotonic() - tokenizing)
        num_ids = [len(prompt.ids) for prompt in prompts]
        spans.record(place, "tokenize", time.monotonic() - started, num_inputs=len(prompts), num_tokens=sum(num_ids))
        check_cost(
            num_ids, request["options"], num_copies, echo=echo, max_tokens=self._arguments.max_tokens_per_request
        )
        choices: list[Choice] = []
        for prompt in prompts:
            asked = {
                **request["options"],
                "max_new_tokens": room_for(len(prompt.ids), max_tokens, self._config.max_position_embeddings),
                "prompt_logprobs": scored or max_tokens == 0,
                "logprobs": shown or num_copies > request["n"],
            }
            try:
                options = GenerationOptions(**asked)
            except InputError as error:
                raise client_error(error) from None
            for copy in range(num_copies):
                seed = None if options.seed is None else options.seed + copy
                of_copy = replace(options, seed=seed)
                choices.append(
                    Choice(len(choices), prompt, of_copy, self._tokenizer, self._names, echo=echo, logprobs=shown)
                )
        self._loop.check()
        return choices

    async def _prompt(self, prompt: str | list[int], *, with_text: bool, with_begins: bool, ends: bool) -> Prompt:
        """ends: nothing is generated after it."""
        from bigbird.generation.generate import encode_prompt

        if isinstance(prompt, str):
            limit = self._config.max_position_embeddings
            if await self._text.tokens_at_least(prompt, self._tokenizer, limit) > limit:
                raise too_long(limit, f"your prompt has more than {limit} tokens", "prompt")
            ids = await self._text.run([prompt], encode_prompt, self._tokenizer, prompt)
            text = prompt
        else:
            ids = list(prompt)
            limit = min(self._config.vocab_size, len(self._tokenizer)) - 1
            if max(ids) > limit:
                raise ServingError(
                    "invalid_input", f"prompt: token id {max(ids)}, the limit is {limit}", param="prompt"
                )
            text = await self._text.run([ids], self._tokenizer.decode, ids, True) if with_text else ""
            if not ends:  # a character that the prompt begins comes with the continuation
                text = text.rstrip("\ufffd")
        if not with_begins:
            return Prompt(ids, text)
        original, num_added = (text, 1) if isinstance(prompt, str) else (None, 0)
        begins = await self._text.run([ids], beginnings, self._tokenizer, self._names, ids, original)
        return Prompt(ids, text, begins, num_added)

    def _report(self, num_tokens: int) -> None:
        stats = self._engine.stats
        self._metrics.generated(
            num_tokens,
            running=stats.num_running,
            waiting=stats.num_waiting,
            num_shared_tokens=stats.num_shared_tokens - self._num_shared_tokens,
            cache_used_share=stats.num_used_cache_tokens
            / max(1, stats.num_used_cache_tokens + stats.num_free_cache_tokens),
        )
        self._num_shared_tokens = stats.num_shared_tokens


def _num_copies(request: dict[str, Any]) -> int:
    """How many continuations of each prompt are generated."""
    return int(request.get("best_of", request["n"]))
