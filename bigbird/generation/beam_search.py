"""Beam search for one prompt: which beams go on, which texts are complete, when to end.

Reproduces transformers' search (5.23): more than K candidates are kept, to replace those that end, complete texts are
scored by their log-probability over their length to the power of the length penalty, and the search ends when the
best beam's score at its present length no longer beats the worst complete text.

Knows no model and no cache: it takes logits and says which beams to continue with which tokens.
Legend: K beams, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from bigbird.generation.options import GenerationOptions
from bigbird.generation.sampler import Processor

_IMPOSSIBLE = -1e9


class BeamSearch:
    """The state of one search. Once `is_done`, `complete` has scores and tokens of at most K texts, best first.

    beams: the tokens of each after the prompt. parents: for each, the beam of the step before that it goes on with.
    scores: the last step's processed log-probabilities, (K, V).
    """

    def __init__(
        self,
        prompt_ids: list[int],
        options: GenerationOptions,
        eos_token_ids: Sequence[int],
        processors: Sequence[Processor],
    ) -> None:
        self.is_done = False
        self.complete: list[tuple[float, list[int]]] = []
        self.beams: list[list[int]] = [[] for _ in range(options.num_beams)]
        self.parents: list[int] = []
        self.scores = torch.empty(0)
        self._prompt_ids = prompt_ids
        self._options = options
        self._eos = eos_token_ids
        self._processors = processors
        # All beams begin as the prompt: only the first may be continued at first, or all would stay the same.
        self._totals = torch.full((options.num_beams,), _IMPOSSIBLE)
        self._totals[0] = 0.0
        self._may_improve = True

    def advance(self, logits: Tensor) -> None:
        """Take the next token's logits of all beams, (K, V); after the prompt, where all are one, (1, V)."""
        options, num_beams = self._options, self._options.num_beams
        self.scores = logits.expand(num_beams, -1).log_softmax(-1)
        if self._processors:
            ids = torch.tensor([self._prompt_ids + beam for beam in self.beams])
            for processor in self._processors:
                self.scores = processor(ids, self.scores)
        totals = (self.scores + self._totals[:, None]).flatten()
        # So many candidates that K are left even if every beam proposes every end-of-sequence token.
        totals, flat = totals.topk(min(max(2, 1 + len(self._eos)) * num_beams, len(totals)))
        parents, tokens = (flat // logits.shape[-1]).tolist(), (flat % logits.shape[-1]).tolist()
        texts = [[*self.beams[parent], token] for parent, token in zip(parents, tokens, strict=True)]
        length = len(texts[0])
        ends = torch.tensor([length == options.max_new_tokens or token in self._eos for token in tokens])

        # Of the first K candidates, those that end are complete.
        scores = (totals / length**options.length_penalty).tolist()
        self.complete += [(scores[place], texts[place]) for place in range(num_beams) if ends[place]]
        self.complete.sort(key=lambda scored: -scored[0])
        del self.complete[num_beams:]
        self._totals, chosen = (totals + ends * _IMPOSSIBLE).topk(num_beams)
        self.beams = [texts[place] for place in chosen.tolist()]
        self.parents = [parents[place] for place in chosen.tolist()]

        is_full = len(self.complete) == num_beams
        if is_full:
            best_possible = float(self._totals[0]) / length**options.length_penalty
            self._may_improve = self._may_improve and best_possible > self.complete[-1][0]
        self.is_done = not self._may_improve or (is_full and options.early_stopping) or bool(ends.all())
