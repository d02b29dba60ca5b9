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

from bigbird.generation.options import GenerationOptions
from bigbird.generation.processors import Processor

_IMPOSSIBLE = -1e9


class BeamSearch:
    """The state of one search. `is_done` tells when `complete` is: scores and tokens of at most K texts, best first."""

    def __init__(
        self,
        prompt_ids: list[int],
        options: GenerationOptions,
        eos_token_ids: Sequence[int],
        processors: Sequence[Processor],
        kept: list[Tensor] | None = None,
    ) -> None:
        """kept: where every step's processed log-probabilities, (K, V), are put."""
        self.is_done = False
        self.complete: list[tuple[float, list[int]]] = []
        self._prompt_ids = prompt_ids
        self._options = options
        self._eos = list(eos_token_ids)
        self._processors = processors
        self._kept = kept
        # Enough candidates for K to go on even if, of each, every end-of-sequence token is among them.
        self._num_candidates = max(2, 1 + len(self._eos)) * options.num_beams
        self._length = 0
        self._beams: list[list[int]] = [[] for _ in range(options.num_beams)]
        # All beams begin as the prompt: only the first may be continued at first, or all would stay the same.
        self._totals = torch.full((options.num_beams,), _IMPOSSIBLE)
        self._totals[0] = 0.0
        self._may_improve = True

    @property
    def last_tokens(self) -> list[int]:
        """The newest token of every beam."""
        return [beam[-1] for beam in self._beams]

    def advance(self, logits: Tensor) -> list[int]:
        """Take the next token's logits of all beams, (K, V); for each beam that goes on, the beam it continues."""
        options, num_beams = self._options, self._options.num_beams
        log_probs = logits.float().cpu().log_softmax(-1)
        if self._processors:
            ids = torch.tensor([self._prompt_ids + beam for beam in self._beams])
            for processor in self._processors:
                log_probs = processor(ids, log_probs)
        if self._kept is not None:
            self._kept.append(log_probs)
        totals = (log_probs + self._totals[:, None]).flatten()
        scores, flat = totals.topk(min(self._num_candidates, len(totals)))
        candidates = [divmod(index, logits.shape[-1]) for index in flat.tolist()]  # (beam, token)
        self._length += 1
        is_full_length = self._length == options.max_new_tokens
        ends = torch.tensor([is_full_length or token in self._eos for _, token in candidates])

        going_on = scores + ends * _IMPOSSIBLE
        chosen = going_on.topk(num_beams).indices.tolist()
        self._collect(candidates, scores, ends)
        self._totals = going_on[chosen]
        parents = [candidates[index][0] for index in chosen]
        self._beams = [[*self._beams[beam], token] for beam, token in (candidates[index] for index in chosen)]

        is_full = len(self.complete) == num_beams
        if is_full:
            best_possible = float(self._totals[0]) / self._length**options.length_penalty
            self._may_improve = self._may_improve and best_possible > self.complete[-1][0]
        self.is_done = not self._may_improve or (is_full and options.early_stopping) or bool(ends.all())
        return parents

    def _collect(self, candidates: list[tuple[int, int]], scores: Tensor, ends: Tensor) -> None:
        """Enter candidates that end, among the first K, into the list of complete texts."""
        normalised = (scores / self._length**self._options.length_penalty).tolist()
        for index in range(self._options.num_beams):
            if ends[index]:
                beam, token = candidates[index]
                self.complete.append((normalised[index], [*self._beams[beam], token]))
        self.complete.sort(key=lambda scored: -scored[0])
        del self.complete[self._options.num_beams :]
