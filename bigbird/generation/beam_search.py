"""Beam search for one prompt: which beams go on, which texts are complete, when to end.

Reproduces transformers' search (5.23): candidates beyond the beams stand by for those that end, complete texts are
scored by their log-probability over their length to the power of the length penalty, and the search ends when the
best beam's score at its present length no longer beats the worst complete text.

Knows no model and no cache: it takes logits and says which beams to continue with which tokens.
Legend: K beams, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from bigbird.generation.continuation import seen_tokens
from bigbird.generation.options import GenerationOptions
from bigbird.generation.sampling import penalise_repetition

_IMPOSSIBLE = -1e9


class BeamSearch:
    """The state of one search. `is_done` tells when to read `best()`."""

    def __init__(
        self,
        prompt_ids: Sequence[int],
        options: GenerationOptions,
        eos_token_ids: Sequence[int],
        vocab_size: int,
    ) -> None:
        self.options = options
        self.is_done = False
        self.num_tokens_at_most = len(prompt_ids) + options.max_new_tokens
        self._eos = list(eos_token_ids)
        # Enough candidates for K to go on even if, of each, every end-of-sequence token is among them.
        self._num_candidates = max(2, 1 + len(self._eos)) * options.num_beams
        self._length = 0
        self._beams: list[list[int]] = [[] for _ in range(options.num_beams)]
        # All beams begin as the prompt: only the first may be continued at first, or all would stay the same.
        self._scores = torch.full((options.num_beams,), _IMPOSSIBLE)
        self._scores[0] = 0.0
        self._complete: list[tuple[float, list[int]]] = []  # at most K, best first
        self._may_improve = True
        self._seen: Tensor | None = None
        if options.repetition_penalty != 1.0:
            self._seen = seen_tokens(prompt_ids, vocab_size).repeat(options.num_beams, 1)

    @torch.inference_mode()
    def advance(self, logits: Tensor) -> tuple[list[int], list[int]]:
        """Take the next token's logits of all beams, (K, V).

        Returns, for each beam that goes on, the beam it continues and the token it appends; K each.
        """
        options, num_beams = self.options, self.options.num_beams
        log_probs = logits.float().cpu().log_softmax(-1)
        if self._seen is not None:
            log_probs = penalise_repetition(log_probs, self._seen, options.repetition_penalty)
        if self._length < options.min_new_tokens:
            log_probs[:, self._eos] = -torch.inf
        totals = (log_probs + self._scores[:, None]).flatten()
        scores, flat = totals.topk(min(self._num_candidates, len(totals)))
        candidates = [divmod(index, logits.shape[-1]) for index in flat.tolist()]  # (beam, token)
        self._length += 1
        is_full_length = self._length == options.max_new_tokens
        ends = torch.tensor([is_full_length or token in self._eos for _, token in candidates])

        going_on = scores + ends * _IMPOSSIBLE
        chosen = going_on.topk(num_beams).indices.tolist()
        self._collect(candidates, scores, ends)
        parents = [candidates[index][0] for index in chosen]
        tokens = [candidates[index][1] for index in chosen]
        self._scores = going_on[chosen]
        self._beams = [[*self._beams[beam], token] for beam, token in zip(parents, tokens, strict=True)]
        if self._seen is not None:
            self._seen = self._seen[parents]
            self._seen[range(num_beams), tokens] = True

        is_full = len(self._complete) == num_beams
        if is_full:
            best_possible = float(self._scores[0]) / self._length**options.length_penalty
            self._may_improve = self._may_improve and best_possible > self._complete[-1][0]
        self.is_done = not self._may_improve or (is_full and options.early_stopping) or bool(ends.all())
        return parents, tokens

    def best(self) -> list[int]:
        """The tokens of the best complete text."""
        return self._complete[0][1]

    def _collect(self, candidates: list[tuple[int, int]], scores: Tensor, ends: Tensor) -> None:
        """Enter candidates that end, among the first K, into the list of complete texts."""
        normalised = (scores / self._length**self.options.length_penalty).tolist()
        for index in range(self.options.num_beams):
            if ends[index]:
                beam, token = candidates[index]
                self._complete.append((normalised[index], [*self._beams[beam], token]))
        self._complete.sort(key=lambda scored: -scored[0])
        del self._complete[self.options.num_beams :]
