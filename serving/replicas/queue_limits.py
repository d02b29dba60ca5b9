"""What a queue may hold, and why a request cannot be taken."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class QueueLimits:
    """Bounds of one queue, all above 0. Tokens are counted over everything accepted and not yet handed to the model.

    max_tokens_per_batch: tokens of one batch; a single larger piece makes a batch of its own.
    max_queued_requests, max_queued_tokens: beyond either, a request is refused as overloaded.
    max_queue_wait_s: a request that would wait longer than this, by the measured time of a batch, is refused too.
    """

    max_tokens_per_batch: int = 8192
    max_queued_requests: int = 256
    max_queued_tokens: int = 1_000_000
    max_queue_wait_s: float = 20.0

    def refusal(
        self, queued_requests: int, queued_tokens: int, tokens: int, wait_s: float, timeout_s: float
    ) -> str | None:
        """Why a queue that holds so much cannot take a request of `tokens` now, None if it can.

        wait_s: until the model would start on it; timeout_s: what the request allows. An empty queue takes a request
        of any size.
        """
        if queued_requests >= self.max_queued_requests:
            return f"{queued_requests} requests are waiting, the limit is {self.max_queued_requests}"
        if queued_tokens and queued_tokens + tokens > self.max_queued_tokens:
            return (
                f"{queued_tokens} tokens are waiting and this request has {tokens}, "
                f"the limit is {self.max_queued_tokens}"
            )
        if wait_s > self.max_queue_wait_s:
            return f"the wait would be {wait_s:.1f} s, the limit is {self.max_queue_wait_s:g} s"
        if wait_s > timeout_s:
            return f"the wait would be {wait_s:.1f} s, the request allows {timeout_s:.3g} s"
        return None
