"""Who is served in a step: admission to the cache, and how many prompt tokens of whom.

Admission is first come, first served, when the cache has room for the whole request; what is admitted always ends.
Every request that is being decoded is served in every step. Beside them a limited number of prompt tokens is computed,
so that a long prompt does not hold up running texts; they are shared between the prompts being read, and a short prompt
goes first every other step: neither a long nor a short one starves. A prompt that begins like one already here reads
those pages instead of computing them.
"""

from collections import deque
from itertools import takewhile

from bigbird.attention.kv_cache import KVCache
from bigbird.generation.request import Request

_SMALLEST_SHARE = 64
"""Prompt tokens of one request worth computing in a step, however many requests share it."""


class Scheduler:
    """max_streams: sequences admitted at a time, a request's beams together; one request is always admitted.
    prefill_tokens: prompt tokens computed in a step at most."""

    def __init__(self, cache: KVCache, max_streams: int, prefill_tokens: int) -> None:
        self.cache = cache
        self.max_streams = max_streams
        self.prefill_tokens = prefill_tokens
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []  # in the order of arrival
        self.num_shared_tokens = 0
        self._long_prompts_waited = False

    @property
    def requests(self) -> list[Request]:
        """All that have not been removed."""
        return [*self.running, *self.waiting]

    def remove(self, request: Request) -> None:
        """Give back what a request holds."""
        if request not in self.running:
            self.waiting.remove(request)
            return
        for sequence in set(request.sequences):
            self.cache.free(sequence)
        self.running.remove(request)

    def schedule(self) -> list[tuple[Request, int]]:
        """The requests of the next step, each with how many prompt tokens to compute; 0 for one being decoded."""
        while self.waiting and self._admits(self.waiting[0]):
            request = self.waiting.popleft()
            request.sequences = [self.cache.open(request.num_tokens_at_most, request.options.num_beams - 1)]
            self.running.append(request)
        return [(request, 0) for request in self.running if not request.num_left] + self._prompts()

    def _admits(self, request: Request) -> bool:
        """Whether a request fits now. Those behind one that does not fit wait for it."""
        num_streams = sum(running.options.num_beams for running in self.running)
        if self.running and num_streams + request.options.num_beams > self.max_streams:
            return False
        return self.cache.fits(request.num_tokens_at_most, request.options.num_beams - 1)

    def _prompts(self) -> list[tuple[Request, int]]:
        """How many prompt tokens the step computes of each request, in the order of arrival."""
        reading = [request for request in self.running if request.num_left and not self._share_prefix_or_wait(request)]
        if not reading:
            return []
        # Steps alternate: one for short prompts alone, one for all.
        short = [request for request in reading if request.num_left <= self.prefill_tokens // 4]
        if short and len(short) < len(reading) and not self._long_prompts_waited:
            self._long_prompts_waited = True
            reading = short
        else:
            self._long_prompts_waited = False
        room = self.prefill_tokens
        share = max(room // len(reading), _SMALLEST_SHARE)
        scheduled: dict[Request, int] = {}
        for limit in (share, room):  # everyone's share first, then what is left to the first who can use it
            for request in reading:
                more = min(request.num_left - scheduled.get(request, 0), limit, room)
                if more > 0:
                    scheduled[request] = scheduled.get(request, 0) + more
                    room -= more
        return list(scheduled.items())

    def _share_prefix_or_wait(self, request: Request) -> bool:
        """Share the pages of an earlier request whose prompt begins alike. True: it still computes them, so wait."""
        if request.num_computed or request.options.prompt_logprobs:  # which need every token computed
            return False
        best, num_tokens = None, 0
        for other in takewhile(lambda earlier: earlier is not request, self.running):
            # Cross-attention makes states differ where the encoder's do.
            if other.encoder_row == request.encoder_row:
                common = self._common_prefix(request.prompt_ids, other.prompt_ids)
                if common > num_tokens:
                    best, num_tokens = other, common
        if best is None:
            return False
        if best.num_computed < num_tokens:
            return True
        self.cache.adopt(request.sequences[0], best.sequences[0], num_tokens)
        request.num_computed = num_tokens
        self.num_shared_tokens += num_tokens
        return False

    def _common_prefix(self, prompt_ids: list[int], other_ids: list[int]) -> int:
        """Tokens of whole pages that both begin with, at least one token of prompt_ids left over to compute."""
        size = self.cache.page_size
        common = 0
        while common + size < len(prompt_ids) and (
            prompt_ids[common : common + size] == other_ids[common : common + size]
        ):
            common += size
        return common
