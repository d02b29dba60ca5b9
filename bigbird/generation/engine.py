"""Continuous batching: many requests, one decoding step at a time.

Requests join and leave between steps, and every step serves all of them at once: one token for each that is being
decoded, and a limited number of prompt tokens, so that a long prompt does not hold up running texts. Admission is
first come, first served, when the cache has room for the whole request; what is admitted always ends. Prompt tokens
of a step are shared between the prompts being read, and a short prompt goes first every other step: neither a long
nor a short one starves. A prompt that begins like one already here reads those pages instead of computing them.

Knows no HTTP, no Ray and no threads; whoever calls `step` says when. A request's tokens depend on its prompt and
options alone.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from bigbird.errors import InputError
from bigbird.generation.continuation import Continuation, GenerationChunk, Tokenizer
from bigbird.generation.decoding import Piece, make_cache, run, select_tokens
from bigbird.generation.options import GenerationOptions

_SMALLEST_SHARE = 64
"""Prompt tokens of one request worth computing in a step, however many requests share it."""


@dataclass(frozen=True, kw_only=True)
class GenerationEvent(GenerationChunk):
    """A chunk, and the request it belongs to. The last of a request has a finish_reason."""

    request_id: int


@dataclass(frozen=True, kw_only=True)
class EngineStats:
    """A moment's load, and counts since the engine was made.

    num_waiting: not admitted yet. num_prefilling, num_decoding: admitted. Cache sizes are in tokens.
    num_shared_tokens: prompt tokens that were not computed, since another request had.
    """

    num_waiting: int
    num_prefilling: int
    num_decoding: int
    num_used_cache_tokens: int
    num_free_cache_tokens: int
    num_steps: int
    num_prompt_tokens: int
    num_shared_tokens: int
    num_generated_tokens: int


@dataclass(eq=False)
class _Request:
    id: int
    continuation: Continuation
    sequence: int = -1
    num_computed: int = 0  # prompt tokens in the cache
    is_cancelled: bool = field(default=False)

    @property
    def num_left(self) -> int:
        """Prompt tokens still to compute."""
        return len(self.continuation.prompt_ids) - self.num_computed


class Engine:
    """Serves many requests with one model.

    model: a BigBirdForCausalLM with is_decoder, prepared for inference or not. tokenizer: None for token ids without
    text. max_cache_tokens: what all admitted requests together may come to hold, prompt and new tokens.
    max_streams: requests admitted at a time. prefill_tokens: prompt tokens computed in a step at most.

    A step that raises (a model out of memory, say) leaves the engine unusable.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer | None = None,
        *,
        max_cache_tokens: int = 65536,
        max_streams: int = 32,
        prefill_tokens: int = 256,
    ) -> None:
        for name, value in (
            ("max_cache_tokens", max_cache_tokens),
            ("max_streams", max_streams),
            ("prefill_tokens", prefill_tokens),
        ):
            if value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        self.model = model
        self.tokenizer = tokenizer
        self.max_streams = max_streams
        self.prefill_tokens = prefill_tokens
        self._cache = make_cache(model, max_cache_tokens)
        self._waiting: deque[_Request] = deque()
        self._active: list[_Request] = []  # admitted, in the order of arrival
        self._by_id: dict[int, _Request] = {}
        self._next_id = 0
        self._long_prompts_waited = False
        self._num_steps = self._num_prompt_tokens = self._num_shared_tokens = self._num_generated_tokens = 0

    def submit(self, prompt_ids: Sequence[int], options: GenerationOptions | None = None) -> int:
        """Queue a request and return its id. Raises InputError when it could never be served."""
        continuation = Continuation(self.model, self.tokenizer, prompt_ids, options or GenerationOptions())
        if continuation.options.num_beams > 1:
            raise InputError(f"num_beams must be 1 in the engine, got {continuation.options.num_beams}")
        if self._cache.pages_for(continuation.num_tokens_at_most) > self._cache.num_pages:
            raise InputError(
                f"prompt and max_new_tokens must be at most {self._cache.num_pages * self._cache.page_size} tokens "
                f"together (max_cache_tokens), got {continuation.num_tokens_at_most}"
            )
        request = _Request(self._next_id, continuation)
        self._next_id += 1
        self._waiting.append(request)
        self._by_id[request.id] = request
        return request.id

    def cancel(self, request_id: int) -> None:
        """End a request at the next step, which reports it as "cancelled". One that has ended stays as it is."""
        if request_id in self._by_id:
            self._by_id[request_id].is_cancelled = True

    @property
    def has_work(self) -> bool:
        return bool(self._by_id)

    @property
    def stats(self) -> EngineStats:
        num_prefilling = sum(request.num_left > 0 for request in self._active)
        cache = self._cache
        return EngineStats(
            num_waiting=len(self._waiting),
            num_prefilling=num_prefilling,
            num_decoding=len(self._active) - num_prefilling,
            num_used_cache_tokens=cache.num_used_pages * cache.page_size,
            num_free_cache_tokens=cache.num_available_pages * cache.page_size,
            num_steps=self._num_steps,
            num_prompt_tokens=self._num_prompt_tokens,
            num_shared_tokens=self._num_shared_tokens,
            num_generated_tokens=self._num_generated_tokens,
        )

    def step(self) -> list[GenerationEvent]:
        """Serve everyone once. Returns what is new, at most one event a request."""
        events = self._drop_cancelled()
        self._admit()
        served = [(request, 1) for request in self._active if not request.num_left] + self._schedule_prompts()
        if not served:
            return events
        pieces, answered = [], []
        for request, num_tokens in served:
            continuation = request.continuation
            if request.num_left:
                ids = continuation.prompt_ids[request.num_computed : request.num_computed + num_tokens]
                request.num_computed += num_tokens
                self._num_prompt_tokens += num_tokens
            else:
                ids = continuation.token_ids[-1:]
            pieces.append(Piece(request.sequence, ids, is_last=not request.num_left))
            if not request.num_left:
                answered.append(request)
        logits = run(self.model, self._cache, pieces)
        self._num_steps += 1
        if not answered:
            return events
        chosen = select_tokens(logits, [request.continuation for request in answered])
        for request, (token, logprob) in zip(answered, chosen, strict=True):
            chunk = request.continuation.accept(token, logprob)
            events.append(GenerationEvent(request_id=request.id, **vars(chunk)))
            if chunk.finish_reason is not None:
                self._end(request)
        self._num_generated_tokens += len(answered)
        return events

    def _drop_cancelled(self) -> list[GenerationEvent]:
        cancelled = [request for request in self._by_id.values() if request.is_cancelled]
        for request in cancelled:
            if request.sequence < 0:
                self._waiting.remove(request)
                del self._by_id[request.id]
            else:
                self._end(request)
        return [
            GenerationEvent(request_id=request.id, token_id=None, text="", finish_reason="cancelled")
            for request in cancelled
        ]

    def _end(self, request: _Request) -> None:
        self._cache.free(request.sequence)
        self._active.remove(request)
        del self._by_id[request.id]

    def _admit(self) -> None:
        """Admit in the order of arrival; the first that does not fit makes the others wait, so that it is next."""
        while self._waiting and len(self._active) < self.max_streams:
            num_tokens = self._waiting[0].continuation.num_tokens_at_most
            if not self._cache.fits(num_tokens):
                break
            request = self._waiting.popleft()
            request.sequence = self._cache.open(num_tokens)
            self._active.append(request)

    def _schedule_prompts(self) -> list[tuple[_Request, int]]:
        """Which prompts this step computes how many tokens of, in the order of arrival."""
        reading = [request for request in self._active if request.num_left and not self._waits_for_prefix(request)]
        if not reading:
            return []
        # A short prompt beside long ones has a step to itself, then the long ones have one, in turn.
        short = [request for request in reading if request.num_left <= self.prefill_tokens // 4]
        if short and len(short) < len(reading) and not self._long_prompts_waited:
            self._long_prompts_waited = True
            reading = short
        else:
            self._long_prompts_waited = False
        room = self.prefill_tokens
        share = max(room // len(reading), _SMALLEST_SHARE)
        scheduled: dict[_Request, int] = {}
        for limit in (share, room):  # everyone's share first, then what is left to the first who can use it
            for request in reading:
                more = min(request.num_left - scheduled.get(request, 0), limit, room)
                if more > 0:
                    scheduled[request] = scheduled.get(request, 0) + more
                    room -= more
        return list(scheduled.items())

    def _waits_for_prefix(self, request: _Request) -> bool:
        """Take over the pages of an earlier request whose prompt begins alike; True while that still computes them."""
        if request.num_computed:
            return False
        best, num_tokens = None, 0
        for other in takewhile(lambda earlier: earlier is not request, self._active):
            common = self._common_prefix(request.continuation.prompt_ids, other.continuation.prompt_ids)
            if common > num_tokens:
                best, num_tokens = other, common
        if best is None:
            return False
        if best.num_computed < num_tokens:
            return True
        self._cache.adopt(request.sequence, best.sequence, num_tokens)
        request.num_computed = num_tokens
        self._num_shared_tokens += num_tokens
        return False

    def _common_prefix(self, prompt_ids: list[int], other_ids: list[int]) -> int:
        """Tokens of whole pages that both begin with, at least one token of prompt_ids left over to compute."""
        size = self._cache.page_size
        common = 0
        while common + size < len(prompt_ids) and (
            prompt_ids[common : common + size] == other_ids[common : common + size]
        ):
            common += size
        return common
