"""Causal models for tests: a small random one, and one whose next token is plain arithmetic."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bigbird import BigBirdConfig, BigBirdForCausalLM
from bigbird.generation.options import GenerationOptions
from bigbird.loading.generation_config import GenerationConfig

TINY: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 2048,
    "attention_type": "original_full",
    "is_decoder": True,
    "initializer_range": 0.4,
    "block_size": 16,
    "num_random_blocks": 1,
    "sep_token_id": 3,
}


def tiny_decoder(seed: int = 0, **changes: Any) -> BigBirdForCausalLM:
    torch.manual_seed(seed)
    return BigBirdForCausalLM(BigBirdConfig(**TINY | changes)).eval()


def with_theirs(seed: int = 0, **changes: Any) -> tuple[Any, BigBirdForCausalLM]:
    """The same random weights in transformers and here."""
    transformers = pytest.importorskip("transformers")
    ours = tiny_decoder(seed, **changes)
    theirs = transformers.BigBirdForCausalLM(transformers.BigBirdConfig(**TINY | changes)).eval()
    missing, unexpected = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert not unexpected
    assert all("decoder" in name for name in missing)  # tied
    theirs.tie_weights()
    return theirs, ours


def prompts_of(lengths: list[int], seed: int = 1) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(4, TINY["vocab_size"], (length,), generator=generator).tolist() for length in lengths]


def their_tokens(theirs: Any, prompt: list[int], options: GenerationOptions, **inputs: Any) -> list[int]:
    ids = torch.tensor([prompt])
    output = theirs.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=options.max_new_tokens,
        min_new_tokens=options.min_new_tokens or None,
        num_beams=options.num_beams,
        length_penalty=options.length_penalty,
        early_stopping=options.early_stopping,
        repetition_penalty=options.repetition_penalty,
        eos_token_id=[2] if options.eos_token_ids is None else list(options.eos_token_ids) or [10**6],  # never comes
        pad_token_id=0,
        **inputs,
    )
    return output[0, len(prompt) :].tolist()


class SumModel:
    """Says (7 * the sum of all tokens so far + their number) modulo the vocabulary, or the end where that is divisible.

    The sum comes out of the cache: attention with all keys alike is a mean, here of the tokens themselves. So a token
    missing from the cache, or one of a neighbour's, changes what is said.
    """

    def __init__(self, vocab_size: int = 50, max_position_embeddings: int = 4096) -> None:
        self.config = SimpleNamespace(
            vocab_size=vocab_size,
            max_position_embeddings=max_position_embeddings,
            num_hidden_layers=1,
            num_attention_heads=1,
            head_dim=1,
            eos_token_id=0,
            is_decoder=True,
            add_cross_attention=False,
        )
        self.generation_config = GenerationConfig(eos_token_id=0)
        self.dtype = torch.float32
        self.device = torch.device("cpu")
        self.bert = SimpleNamespace(embeddings=self._embed, encoder=self._encode)
        self.num_passes = 0
        self.most_tokens = 0

    def _embed(self, ids: torch.Tensor, types: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        self.num_passes += 1
        self.most_tokens = max(self.most_tokens, len(ids))
        return torch.stack([ids, positions], dim=1).float()

    def _encode(self, hidden: torch.Tensor, attend: Any, cross: None) -> torch.Tensor:
        tokens = hidden[:, :1, None]
        mean = attend(0, torch.zeros_like(tokens), torch.zeros_like(tokens), tokens)[:, 0]
        count = hidden[:, 1:] + 1
        return (7 * (mean * count).round() + count) % self.config.vocab_size

    def cls(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(hidden[:, 0].long(), self.config.vocab_size).float() * 20

    def expected(self, prompt_ids: list[int], max_new_tokens: int) -> list[int]:
        """What it says after a prompt, computed without it."""
        history = list(prompt_ids)
        for _ in range(max_new_tokens):
            history.append((7 * sum(history) + len(history)) % self.config.vocab_size)
            if history[-1] == self.config.eos_token_id:
                break
        return history[len(prompt_ids) :]


class LetterTokenizer:
    """Token n is the n-th of these characters; "0" begins a text, and a line break ends it."""

    letters = "0123456789 abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,;:!?()[]{}+-*/=<>@#%&|~^_'\"\n"
    cls_token_id = 0
    sep_token_id = len(letters) - 1

    def __len__(self) -> int:
        return len(self.letters)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [self.letters.index(letter) for letter in text]

    def decode(self, token_ids: Any, skip_special_tokens: bool = False) -> str:
        return "".join(self.letters[token] for token in token_ids)
