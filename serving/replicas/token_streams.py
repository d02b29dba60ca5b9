"""Text-generation-inference's events: a generated text token by token, each with its log-probability.

It knows the engine and that wire format; HTTP and server-sent events it does not.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from serving.errors import ServingError
from serving.replicas import spans
from serving.replicas.engine_loop import EngineLoop
from serving.replicas.failures import failure
from serving.replicas.metrics import HeadMetrics
from serving.replicas.text_threads import TextThreads
from serving.settings import HeadArguments

# Text-generation-inference's, where a request does not say; less where there is less room.
_DEFAULT_MAX_NEW_TOKENS = 100


class TokenStreams:
    """What a generation replica answers in that format. A request: prompt, options (of the library, by name),
    truncate (tokens of the prompt's end that are read; None for all), timeout_s."""

    _arguments: HeadArguments
    _config: Any
    _loop: EngineLoop
    _metrics: HeadMetrics
    _text: TextThreads
    _tokenizer: Any

    async def generate(self, request: dict[str, Any]) -> dict[str, Any]:
        """The whole text, with details: see `tokens`."""
        events = []
        async for event in self.tokens(request):
            if "failure" in event:
                return event
            events.append(event)
        last = events[-1]
        details = {
            **last["details"],
            "prefill": events[0]["prefill"],
            "tokens": [event["token"] for event in events],
            "top_tokens": [event["top_tokens"] for event in events],
        }
        return {"generated_text": last["generated_text"], "details": details}

    async def tokens(self, request: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """An event a token: index, token, top_tokens, prefill (the prompt's tokens, with the first event where asked);
        with the last generated_text and details. Or `{"failure": ...}`, which ends it.

        A token's text is what has become final with it, so that all of them are the text: a character of several
        tokens comes with its last.
        """
        try:
            async for event in self._token_events(request):
                yield event
        except ServingError as error:
            yield failure(error)

    async def _token_events(self, request: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        from bigbird.errors import InputError

        started = time.monotonic()
        # Before tokenizing, which a refused request should not cost, and after it, when others may have come first.
        self._loop.check()
        ids = await self._prompt_ids(request["prompt"], request["truncate"])
        tokenize_s = time.monotonic() - started
        self._metrics.tokenized(tokenize_s)
        spans.record(spans.place_of_request(), "tokenize", tokenize_s, num_inputs=1, num_tokens=len(ids))
        self._loop.check()
        options = self._options(request["options"], len(ids))
        special = set(self._tokenizer.all_special_ids)
        text, count, first_token_at = "", 0, started
        events = self._loop.generate(ids, options)
        try:
            while True:
                left_s = request["timeout_s"] - (time.monotonic() - started)
                try:
                    async with asyncio.timeout(max(left_s, 0.0)):
                        event = await anext(events)
                except TimeoutError:
                    message = f"not finished within {request['timeout_s']:.3g} s"
                    raise ServingError("deadline_exceeded", message) from None
                except InputError as error:
                    raise ServingError("invalid_input", f"inputs: {error}", param="inputs") from None
                count += 1
                if count == 1:
                    first_token_at = time.monotonic()
                    self._metrics.first_token(first_token_at - started)
                text += event.text
                token = event.token_id
                body: dict[str, Any] = {
                    "index": count,
                    "token": {"id": token, "text": event.text, "logprob": event.logprob, "special": token in special},
                    "top_tokens": [self._named(id, value, special) for id, value in event.top_logprobs],
                    "prefill": self._prefill(ids, event.prompt_logprobs),
                    "generated_text": None,
                    "details": None,
                }
                if event.finish_reason is None:
                    yield body
                    continue
                self._metrics.finished(
                    event.finish_reason,
                    num_prompt_tokens=len(ids),
                    num_tokens=count,
                    decode_s=time.monotonic() - first_token_at,
                )
                ended = "stop_sequence" if options.stop and token not in special else "eos_token"
                details = {
                    "finish_reason": "length" if event.finish_reason == "length" else ended,
                    "generated_tokens": count,
                    "input_length": len(ids),
                    "seed": options.seed,
                }
                yield {**body, "generated_text": text, "details": details}
                return
        finally:
            await events.aclose()  # type: ignore[attr-defined]

    async def _prompt_ids(self, prompt: str, truncate: int | None) -> list[int]:
        """[CLS] and the prompt's tokens, or the last `truncate` of them."""
        from bigbird.generation.generate import encode_prompt

        limit = self._config.max_position_embeddings if truncate is None else self._arguments.max_tokens_per_request
        if await self._text.tokens_at_least(prompt, self._tokenizer, limit) > limit:
            raise ServingError("invalid_input", f"inputs: more than {limit} tokens, the limit", param="inputs")
        ids: list[int] = await self._text.run([prompt], encode_prompt, self._tokenizer, prompt)
        return ids if truncate is None or len(ids) <= truncate + 1 else [ids[0], *ids[-truncate:]]

    def _options(self, given: dict[str, Any], num_prompt_tokens: int) -> Any:
        from bigbird.errors import InputError
        from bigbird.generation.options import GenerationOptions

        room = self._config.max_position_embeddings - num_prompt_tokens
        asked = given.get("max_new_tokens")
        if room < (asked or 1):
            raise ServingError(
                "invalid_input",
                f"parameters.max_new_tokens: {asked or 1}, and the {num_prompt_tokens} tokens of inputs leave room for "
                f"{max(0, room)}",
                param="parameters.max_new_tokens",
            )
        try:
            return GenerationOptions(
                **{**given, "max_new_tokens": asked or min(room, _DEFAULT_MAX_NEW_TOKENS), "logprobs": True}
            )
        except InputError as error:
            raise ServingError("invalid_input", f"parameters: {error}", param="parameters") from None

    def _prefill(self, ids: list[int], logprobs: Any) -> list[dict[str, Any]]:
        if logprobs is None:
            return []
        values = [None, *(one.logprob for one in logprobs)]
        return [{"id": id, "text": self._spelled(id), "logprob": value} for id, value in zip(ids, values, strict=True)]

    def _named(self, token: int, logprob: float, special: set[int]) -> dict[str, Any]:
        return {"id": token, "text": self._spelled(token), "logprob": logprob, "special": token in special}

    def _spelled(self, token: int) -> str:
        text: str = self._tokenizer.decode([token], skip_special_tokens=False)
        return text
