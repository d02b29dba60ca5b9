"""The one loop that decodes: many requests, one step at a time. `generate`, streams, predictors and servers run it.

Requests join and leave between steps, and every step serves all of them at once: `scheduler` says whom with what. A
request's tokens depend on its prompt and options alone.

Knows no HTTP, no Ray and no threads; whoever calls `step` says when. Legend: R rows, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from bigbird.attention.cached import CachedAttention, CachedCrossAttention
from bigbird.attention.kv_cache import KVCache
from bigbird.errors import InputError
from bigbird.generation.options import GenerationOptions, refuse_other_devices
from bigbird.generation.request import GenerationChunk, Piece, Request
from bigbird.generation.scheduler import Scheduler
from bigbird.generation.text_stream import Tokenizer

DRAFT_ROWS = 16
"""Rows of a step, with drafts: so many cost little more than one, whose time goes into reading the weights."""


@dataclass(frozen=True, kw_only=True)
class EngineStats:
    """A moment's load, and counts since the engine was made.

    num_waiting: not admitted yet. num_running: admitted. Cache sizes are in tokens.
    num_shared_tokens: prompt tokens that were not computed, since another request had.
    """

    num_waiting: int
    num_running: int
    num_used_cache_tokens: int
    num_free_cache_tokens: int
    num_steps: int
    num_prompt_tokens: int
    num_shared_tokens: int
    num_generated_tokens: int


@torch.inference_mode()
def run(model: Any, cache: KVCache, pieces: Sequence[Piece], cross: CachedCrossAttention | None = None) -> Tensor:
    """One pass of the model over new tokens, whose keys and values join the cache.

    Returns the wanted logits, (R, V), float32, in the order of the pieces and of their tokens.
    """
    spans = [(piece.sequence, len(piece.token_ids)) for piece in pieces]
    attend = CachedAttention(cache, spans)
    ids = torch.tensor([token for piece in pieces for token in piece.token_ids])
    hidden = model.bert.embeddings(ids, torch.zeros_like(ids), attend.position_ids)
    if cross is not None:
        cross.begin(spans)
    hidden = model.bert.encoder(hidden, attend, cross=cross)
    wanted: list[int] = []
    end = 0
    for piece in pieces:
        end += len(piece.token_ids)
        wanted += range(end - piece.num_logits, end)
    if not wanted:
        return torch.empty(0, model.config.vocab_size)
    logits: Tensor = model.cls(hidden if len(wanted) == end else hidden[wanted])
    return logits.float()


class Engine:
    """Serves many requests with one model.

    model: a BigBirdForCausalLM with is_decoder, prepared for inference or not. tokenizer: of requests submitted; None
    for token ids without text. max_cache_tokens: what all admitted requests together may come to hold, prompt and new
    tokens; None for max_streams of the model's full length. max_streams: sequences admitted at a time.
    prefill_tokens: prompt tokens computed in a step at most.
    cross: the encoder's states for a decoder with cross-attention; requests name their row of it.

    A step that raises (a model out of memory, say) leaves the engine unusable.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer | None = None,
        *,
        max_cache_tokens: int | None = None,
        max_streams: int = 32,
        prefill_tokens: int = 512,
        cross: CachedCrossAttention | None = None,
    ) -> None:
        if max_cache_tokens is None:
            max_cache_tokens = max_streams * model.config.max_position_embeddings
        limits = {"max_streams": max_streams, "max_cache_tokens": max_cache_tokens, "prefill_tokens": prefill_tokens}
        for name, value in limits.items():
            if value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        refuse_other_devices(model.device)
        self.model = model
        self.tokenizer = tokenizer
        self._cache = KVCache.for_model(model, max_cache_tokens)
        self._scheduler = Scheduler(self._cache, max_streams, prefill_tokens)
        self._cross = cross
        self._next_id = 0
        self._num_steps = self._num_prompt_tokens = self._num_generated_tokens = 0

    def submit(self, prompt_ids: Sequence[int], options: GenerationOptions | None = None) -> int:
        """Queue a request and return its id. Raises InputError when it could never be served."""
        return self.add(Request(self.model, self.tokenizer, prompt_ids, options or GenerationOptions()))

    def add(self, request: Request) -> int:
        """The same for a request that is made already; it holds the whole text when it has a finish_reason."""
        if request.options.num_return_sequences > 1 and request.search is None:
            raise InputError("num_return_sequences must be 1 in one request, got several: make one request a text")
        num_beams, room = request.options.num_beams, self._cache.num_pages
        if self._cache.pages_for(request.num_tokens_at_most) * num_beams > room:
            beams = f" for each of {num_beams} beams" if num_beams > 1 else ""
            raise InputError(
                f"prompt and max_new_tokens must be at most {room * self._cache.page_size} tokens together "
                f"(max_cache_tokens), got {request.num_tokens_at_most}{beams}"
            )
        request.id = self._next_id
        self._next_id += 1
        self._scheduler.waiting.append(request)
        return request.id

    def cancel(self, request_id: int) -> None:
        """End a request at the next step, which reports it as "cancelled". One that has ended stays as it is."""
        for request in self._scheduler.requests:
            request.is_cancelled |= request.id == request_id

    @property
    def has_work(self) -> bool:
        return bool(self._scheduler.requests)

    def is_waiting(self, request_id: int) -> bool:
        """Whether a request has not been admitted yet."""
        return any(request.id == request_id for request in self._scheduler.waiting)

    @property
    def stats(self) -> EngineStats:
        return EngineStats(
            num_waiting=len(self._scheduler.waiting),
            num_running=len(self._scheduler.running),
            num_used_cache_tokens=self._cache.num_used_pages * self._cache.page_size,
            num_free_cache_tokens=self._cache.num_available_pages * self._cache.page_size,
            num_steps=self._num_steps,
            num_prompt_tokens=self._num_prompt_tokens,
            num_shared_tokens=self._scheduler.num_shared_tokens,
            num_generated_tokens=self._num_generated_tokens,
        )

    def run(self) -> Iterator[GenerationChunk]:
        """Step until nothing is left to do."""
        while self.has_work:
            yield from self.step()

    @torch.inference_mode()
    def step(self) -> list[GenerationChunk]:
        """Serve everyone once. Returns what is new: a chunk a token, at the end of a beam search one for its text. The
        last of a request has a finish_reason."""
        chunks = []
        for request in self._scheduler.requests:
            if request.is_cancelled:
                chunks.append(request.end("cancelled"))
                self._scheduler.remove(request)
        served = self._scheduler.schedule()
        if not served:
            return chunks
        max_draft = DRAFT_ROWS // len(served) - 1
        pieces = {request: request.next_pieces(num_tokens, max_draft) for request, num_tokens in served}
        if self._cross is not None:
            self._cross.row_of = {s: request.encoder_row for request in pieces for s in request.sequences}
        logits = run(self.model, self._cache, list(chain(*pieces.values())), self._cross)
        self._num_steps += 1
        self._num_prompt_tokens += sum(num_tokens for _, num_tokens in served)
        parts = logits.split([sum(piece.num_logits for piece in its_pieces) for its_pieces in pieces.values()])
        for request, rows in zip(pieces, parts, strict=True):
            if not len(rows):  # its prompt is still being read
                continue
            num_tokens = len(request.token_ids)
            chunks += request.take(rows)
            self._num_generated_tokens += len(request.token_ids) - num_tokens
            if request.finish_reason is not None:
                self._scheduler.remove(request)
            elif request.search is not None:
                request.sequences = self._cache.reorder(request.sequences, request.search.parents)
            elif request.drafted:  # what was computed of the tokens that were not chosen goes
                self._cache.truncate(request.sequences[0], len(request.prompt_ids) + len(request.token_ids) - 1)
        return chunks
