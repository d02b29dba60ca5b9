"""How the names in a file of weights and the parameters of a model come together.

Strict: parameter names equal the names in the file, and everything that does not fit is refused in one message.
Tolerated are only: old spellings (`gamma`, `beta`), what is tied and so stored once, position buffers of old
versions, an encoder stored with or without `bert.` before its names, and heads. A head (the pooler among them) that
the file lacks is drawn anew, and one the class does not have is left out; both are said in a warning that lists the
keys. Where the file's own `architectures` promises the head, its absence is an error.

Knows names and shapes; reads no file and makes no model.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bigbird.errors import CheckpointError

logger = logging.getLogger(__name__)

_READS_POOLER = {"BigBirdForPreTraining", "BigBirdForMultipleChoice"}

_HEADS = ("bert.pooler.", "cls.predictions.", "cls.seq_relationship.", "classifier.", "qa_classifier.")
_BUFFERS = ("bert.embeddings.position_ids", "bert.embeddings.token_type_ids")
_WORDS = "bert.embeddings.word_embeddings.weight"
_DECODER = "cls.predictions.decoder.weight"
_BIAS = "cls.predictions.bias"
_DECODER_BIAS = "cls.predictions.decoder.bias"


LoadingInfo = dict[str, list[Any]]
"""What did not fit: missing_keys (drawn anew), unexpected_keys (left out), mismatched_keys and error_msgs (none)."""


@dataclass(kw_only=True)
class Match:
    """How the tensors of a file and the parameters of a model come together; names are the model's."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    drawn: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    mismatched: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    """Drawn anew for their shape: name, shape in the file, shape in the model."""

    @property
    def info(self) -> LoadingInfo:
        """What did not fit, by transformers' names."""
        return {
            "missing_keys": [key for key in self.drawn if key not in {name for name, _, _ in self.mismatched}],
            "unexpected_keys": self.left_out,
            "mismatched_keys": self.mismatched,
            "error_msgs": [],
        }

    def report(self, directory: Path, class_name: str) -> None:
        if self.drawn:
            logger.warning("%s has no %s: drawn anew for %s", directory, ", ".join(self.drawn), class_name)
        if self.left_out:
            logger.warning("%s has %s: left out, %s has no such head", directory, ", ".join(self.left_out), class_name)


def match_names(
    model: nn.Module,
    stored: Mapping[str, Tensor],
    directory: Path,
    *,
    bare: bool,
    tied: bool,
    promised: bool,
    check_finite: bool,
    ignore_mismatched_sizes: bool = False,
) -> Match:
    """Pairs names; raises one CheckpointError with everything that does not fit.

    bare: the model is the encoder itself, its names without `bert.` before them. tied: its decoder's weight is the
    word embeddings'. promised: the file says it holds this very class, so that no head of it may be missing.
    ignore_mismatched_sizes: what has another shape in the file is drawn anew, as if it were missing.
    """
    expected = {("bert." if bare else "") + key: tuple(p.shape) for key, p in model.named_parameters()}
    found = current_names(stored)
    problems = untied(found, tied)
    match = Match()
    for head in _HEADS:
        wanted = {key for key in expected if key.startswith(head)}
        there = {key for key in found if key.startswith(head)}
        if wanted & there:
            continue
        needed = promised and (head != "bert.pooler." or type(model).__name__ in _READS_POOLER)
        if wanted and not needed:
            match.drawn += sorted(wanted)
            expected = {key: shape for key, shape in expected.items() if key not in wanted}
        if there:
            match.left_out += sorted(there)
            found = {key: tensor for key, tensor in found.items() if key not in there}
    if ignore_mismatched_sizes:
        shapes = {key: (tuple(found[key].shape), expected[key]) for key in sorted(expected.keys() & found.keys())}
        match.mismatched = [(key, stored, own) for key, (stored, own) in shapes.items() if stored != own]
        match.drawn += [key for key, _, _ in match.mismatched]
        for key, _, _ in match.mismatched:
            del expected[key], found[key]
    both = expected.keys() & found.keys()
    listed = {
        "missing": sorted(expected.keys() - both),
        "unexpected": sorted(found.keys() - both),
        "wrong shape": [
            f"{key} is {tuple(found[key].shape)}, expected {expected[key]}"
            for key in sorted(both)
            if tuple(found[key].shape) != expected[key]
        ],
        "not floating point": [f"{key} ({found[key].dtype})" for key in both if not found[key].is_floating_point()],
        "not finite": [key for key in sorted(both) if check_finite and not bool(found[key].isfinite().all())],
    }
    problems += [f"{what} ({len(keys)}): {', '.join(keys)}" for what, keys in listed.items() if keys]
    if problems:
        raise CheckpointError(f"{directory}: does not fit {type(model).__name__}: {'; '.join(problems)}")
    match.tensors = {key.removeprefix("bert.") if bare else key: found[key] for key in expected}
    if bare:
        match.drawn = [key.removeprefix("bert.") for key in match.drawn]
        match.mismatched = [(key.removeprefix("bert."), stored, own) for key, stored, own in match.mismatched]
    return match


def current_names(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The file's tensors under today's names, the encoder's with `bert.` before them; buffers are gone."""
    bare = not any(key.startswith("bert.") for key in stored)
    found: dict[str, Tensor] = {}
    for key, tensor in stored.items():
        if bare and key.startswith(("embeddings.", "encoder.", "pooler.")):
            key = f"bert.{key}"
        if key.endswith(".gamma"):
            key = key.removesuffix("gamma") + "weight"
        elif key.endswith(".beta"):
            key = key.removesuffix("beta") + "bias"
        if key not in _BUFFERS:
            found[key] = tensor
    return found


def untied(found: dict[str, Tensor], tie_word_embeddings: bool) -> list[str]:
    """Removes what is stored twice; returns what is stored twice and differs."""
    problems: list[str] = []
    pairs = [(_BIAS, _DECODER_BIAS)] + ([(_WORDS, _DECODER)] if tie_word_embeddings else [])
    for kept, double in pairs:
        tensor = found.pop(double, None)
        if tensor is None:
            continue
        if kept not in found:
            found[kept] = tensor
        elif found[kept].shape != tensor.shape or not torch.equal(found[kept], tensor):
            problems.append(f"tied but different: {kept} and {double}")
    return problems
