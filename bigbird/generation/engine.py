"""The one loop that decodes: many requests, one step at a time. `generate`, streams, predictors and servers run it.

Requests join and leave between steps, and every step serves all of them at once: `scheduler` says whom with what. A
request's tokens depend on its prompt and options alone.

Knows no HTTP, no Ray and no threads; whoever calls `step` says when. Legend: R rows, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bigbird.attention.cached import CachedAttention, CachedCrossAttention
from bigbird.attention.kv_cache import KVCache
from bigbird.errors import InputError
from bigbird.generation.choosing import choose
from bigbird.generation.options import GenerationOptions, refuse_other_devices
from bigbird.generation.request import GenerationChunk, Request, Tokenizer
from bigbird.generation.scheduler import Scheduler

DRAFT_ROWS = 16
"""Rows of a step, with drafts: so many cost little more than one, whose time goes into reading the weights."""


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


@dataclass(frozen=True)
class Piece:
    """New tokens of one sequence of the cache; the logits after the last `num_answers` of them are wanted."""

    sequence: int
    token_ids: list[int]
    num_answers: int = 1


@torch.inference_mode()
def run(model: Any, cache: KVCache, pieces: Sequence[Piece], cross: CachedCrossAttention | None = None) -> Tensor:
    """One pass of the model over new tokens, whose keys and values join the cache.

    Returns the wanted logits, (R, V), float32, in the order of the pieces and of their tokens.
    """
    spans = [(piece.sequence, len(piece.token_ids)) for piece in pieces]
    attend = CachedAttention(cache, spans)
    ids = torch.tensor([token for piece in pieces for token in piece.token_ids], device=attend.position_ids.device)
    hidden = model.bert.embeddings(ids, torch.zeros_like(ids), attend.position_ids)
    if cross is None:
        hidden = model.bert.encoder(hidden, attend)
    else:
        cross.begin(spans)
        hidden = model.bert.encoder(hidden, attend, cross=cross)
    wanted: list[int] = []
    end = 0
    for piece in pieces:
        end += len(piece.token_ids)
        wanted += range(end - piece.num_answers, end)
    if not wanted:
        return torch.empty(0, model.config.vocab_size, device=ids.device)
    logits: Tensor = model.cls(hidden if len(wanted) == end else hidden[torch.tensor(wanted, device=ids.device)])
    return logits.float()


class Engine:
    """Serves many requests with one model.

    model: a BigBirdForCausalLM with is_decoder, prepared for inference or not. tokenizer: None for token ids without
    text. max_cache_tokens: what all admitted requests together may come to hold, prompt and new tokens.
    max_streams: sequences admitted at a time. prefill_tokens: prompt tokens computed in a step at most.
    cross: the encoder's states for a decoder with cross-attention; requests name their row of it.

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
        cross: CachedCrossAttention | None = None,
    ) -> None:
        limits = {"max_cache_tokens": max_cache_tokens, "max_streams": max_streams, "prefill_tokens": prefill_tokens}
        for name, value in limits.items():
            if value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        refuse_other_devices(model.device)
        self.model = model
        self.tokenizer = tokenizer
        self._cache = KVCache.for_model(model, max_cache_tokens)
        self._scheduler = Scheduler(self._cache, max_streams, prefill_tokens)
        self._cross = cross
        self._by_id: dict[int, Request] = {}
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
        self._by_id[request.id] = request
        return request.id

    def cancel(self, request_id: int) -> None:
        """End a request at the next step, which reports it as "cancelled". One that has ended stays as it is."""
        if request_id in self._by_id:
            self._by_id[request_id].is_cancelled = True

    @property
    def has_work(self) -> bool:
        return bool(self._by_id)

    def is_waiting(self, request_id: int) -> bool:
        """Whether a request has not been admitted yet."""
        return any(request.id == request_id for request in self._scheduler.waiting)

    @property
    def stats(self) -> EngineStats:
        running, cache = self._scheduler.running, self._cache
        num_prefilling = sum(request.num_left > 0 for request in running)
        return EngineStats(
            num_waiting=len(self._scheduler.waiting),
            num_prefilling=num_prefilling,
            num_decoding=len(running) - num_prefilling,
            num_used_cache_tokens=cache.num_used_pages * cache.page_size,
            num_free_cache_tokens=cache.num_available_pages * cache.page_size,
            num_steps=self._num_steps,
            num_prompt_tokens=self._num_prompt_tokens,
            num_shared_tokens=self._scheduler.num_shared_tokens,
            num_generated_tokens=self._num_generated_tokens,
        )

    @torch.inference_mode()
    def step(self) -> list[GenerationChunk]:
        """Serve everyone once. Returns what is new: a chunk a token, at the end of a beam search one for its text. The
        last of a request has a finish_reason."""
        cancelled = [request.end("cancelled") for request in self._by_id.values() if request.is_cancelled]
        self._release(cancelled)
        served = self._scheduler.schedule()
        if not served:
            return cancelled
        max_draft = DRAFT_ROWS // len(served) - 1
        pieces = {request: self._pieces(request, num_tokens, max_draft) for request, num_tokens in served}
        if self._cross is not None:
            self._cross.row_of = {s: request.encoder_row for request in pieces for s in request.sequences}
        logits = run(self.model, self._cache, [piece for of_one in pieces.values() for piece in of_one], self._cross)
        self._num_steps += 1

        chunks: list[GenerationChunk] = []
        answered: dict[Request, tuple[int, list[int]]] = {}  # its first row of logits, and the draft it tries out
        row = 0
        for request, its_pieces in pieces.items():
            if not its_pieces[0].num_answers:
                continue
            num_rows = sum(piece.num_answers for piece in its_pieces)
            if request.search is not None:
                chunks += self._search(request, logits[row : row + num_rows])
            elif request.token_ids:
                answered[request] = row, its_pieces[0].token_ids[1:]
            else:
                if request.options.prompt_logprobs:
                    request.score_prompt(logits[row : row + num_rows])
                if not request.num_left and request.options.max_new_tokens:
                    answered[request] = row + num_rows - 1, []
                elif not request.num_left:
                    chunks.append(request.end("length"))
            row += num_rows
        chunks += self._answer(logits, answered)
        self._release(chunks)
        return cancelled + chunks

    def run(self) -> Iterator[GenerationChunk]:
        """Step until nothing is left to do."""
        while self.has_work:
            yield from self.step()

    def _release(self, chunks: Sequence[GenerationChunk]) -> None:
        """Give back what requests hold whose last chunks are among these."""
        for chunk in chunks:
            if chunk.finish_reason is not None:
                self._scheduler.remove(self._by_id.pop(chunk.request_id))

    def _pieces(self, request: Request, num_prompt_tokens: int, max_draft: int) -> list[Piece]:
        """The tokens a request has computed in a step."""
        if num_prompt_tokens:
            start = request.num_computed
            request.num_computed += num_prompt_tokens
            self._num_prompt_tokens += num_prompt_tokens
            ids = request.prompt_ids[start : request.num_computed]
            num_answers = len(ids) if request.options.prompt_logprobs else int(not request.num_left)
            return [Piece(request.sequences[0], ids, num_answers)]
        if request.search is not None:
            lasts = zip(request.sequences, request.search.last_tokens, strict=True)
            return [Piece(sequence, [token], 1) for sequence, token in lasts]
        ids = [request.token_ids[-1], *request.draft(max_draft)]
        return [Piece(request.sequences[0], ids, len(ids))]

    def _answer(self, logits: Tensor, answered: dict[Request, tuple[int, list[int]]]) -> list[GenerationChunk]:
        """Choose each request's next token, and one after every token of its draft that was chosen as it stands."""
        chunks = []
        drafts = {request: draft for request, (_, draft) in answered.items() if draft}
        place = 0
        while answered:
            rows = [row + place for row, _ in answered.values()]
            of_all = rows == list(range(len(logits)))
            chosen = choose(logits if of_all else logits[torch.tensor(rows, device=logits.device)], list(answered))
            going_on = {}
            for (request, (row, draft)), (token, logprob) in zip(answered.items(), chosen, strict=True):
                chunks.append(request.accept(token, logprob))
                if request.finish_reason is None and draft[place : place + 1] == [token]:
                    going_on[request] = row, draft
            self._num_generated_tokens += len(answered)
            answered = going_on
            place += 1
        for request in drafts:
            if request.finish_reason is None:  # what was computed of the draft's other tokens goes
                self._cache.truncate(request.sequences[0], len(request.prompt_ids) + len(request.token_ids) - 1)
        return chunks

    def _search(self, request: Request, logits: Tensor) -> list[GenerationChunk]:
        """Let a beam search go on; at its end, the best text."""
        search = request.search
        assert search is not None
        if len(logits) == 1:  # after the prompt all beams are one
            request.sequences *= request.options.num_beams
            logits = logits.expand(len(request.sequences), -1)
        parents = [request.sequences[parent] for parent in search.advance(logits)]
        if not search.is_done:
            for sequence in set(request.sequences) - set(parents):
                self._cache.free(sequence)
            # A parent's first child goes on with it, the others fork from it.
            first = {parent: place for place, parent in reversed(list(enumerate(parents)))}
            request.sequences = [
                parent if first[parent] == place else self._cache.fork(parent) for place, parent in enumerate(parents)
            ]
            return []
        last = [request.accept(token) for token in search.complete[0][1]][-1]
        self._num_generated_tokens += len(request.token_ids)
        return [replace(last, text=request.text)]
