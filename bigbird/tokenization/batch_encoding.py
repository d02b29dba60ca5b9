"""What a call of the tokenizer returns: lists or tensors by name, and the tokens behind them.

Knows the interface of transformers' BatchEncoding; nothing of how texts become tokens.
"""

import sys
from collections import UserDict
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from bigbird.errors import InputError
from bigbird.tokenization.arguments import check_tensors
from bigbird.tokenization.encoding import CharSpan, Encoding, TokenSpan


class BatchEncoding(UserDict[str, Any]):
    """A mapping from names such as input_ids to lists or tensors; they are attributes as well.

    An integer index gives a row's Encoding. encodings: one a row, None where the values came from elsewhere.
    """

    def __init__(
        self,
        data: Mapping[str, Any] | None = None,
        encodings: Sequence[Encoding] | None = None,
        tensor_type: str | None = None,
    ) -> None:
        super().__init__(data or {})
        self.encodings = None if encodings is None else list(encodings)
        self.convert_to_tensors(tensor_type)

    def __getitem__(self, key: str | int | slice) -> Any:
        if isinstance(key, str):
            return self.data[key]
        if isinstance(key, slice) and self.encodings is None:
            return {name: value[key] for name, value in self.data.items()}
        return self._all()[key]

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["data"][name]
        except KeyError:
            raise AttributeError(f"BatchEncoding has no {name}") from None

    @property
    def is_fast(self) -> bool:
        """Whether tokens, words and characters can be asked for."""
        return self.encodings is not None

    @property
    def n_sequences(self) -> int | None:
        """1 for single texts, 2 for pairs."""
        return self.encodings[0].num_texts if self.encodings else None

    def convert_to_tensors(self, tensor_type: str | None = None) -> Self:
        """In place: int64 tensors ("pt") or arrays ("np"). Raises InputError for rows that differ in length."""
        check_tensors(tensor_type)
        if tensor_type is not None:
            self.data = {name: _as_tensor(name, value, tensor_type) for name, value in self.data.items()}
        return self

    def to(self, device: Any, *, non_blocking: bool = False) -> Self:
        """In place: the tensors on another device, a torch.device or its name or number."""
        self.data = {
            name: value.to(device=device, non_blocking=non_blocking) if is_tensor(value) else value
            for name, value in self.data.items()
        }
        return self

    def tokens(self, batch_index: int = 0) -> list[str]:
        return self._all()[batch_index].tokens

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """0 or 1, the text a token belongs to; None for added special tokens."""
        return self._all()[batch_index].sequence_ids

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """Number of a token's word in its text; None for added special tokens."""
        return self._all()[batch_index].word_ids

    # In all of these the first index may be left out where it is the row and the row is the first one.

    def token_to_sequence(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        row, token = self._row(batch_or_token_index, token_index)
        return row.sequence_ids[token]

    def token_to_word(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        row, token = self._row(batch_or_token_index, token_index)
        return row.word_ids[token]

    def token_to_chars(self, batch_or_token_index: int, token_index: int | None = None) -> CharSpan | None:
        row, token = self._row(batch_or_token_index, token_index)
        return row.token_to_chars(token)

    def char_to_token(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        row, char = self._row(batch_or_char_index, char_index)
        return row.char_to_token(char, sequence_index)

    def char_to_word(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        row, char = self._row(batch_or_char_index, char_index)
        return row.char_to_word(char, sequence_index)

    def word_to_tokens(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> TokenSpan | None:
        row, word = self._row(batch_or_word_index, word_index)
        return row.word_to_tokens(word, sequence_index)

    def word_to_chars(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> CharSpan | None:
        row, word = self._row(batch_or_word_index, word_index)
        return row.word_to_chars(word, sequence_index)

    def _all(self) -> list[Encoding]:
        if self.encodings is None:
            raise InputError("these values do not come from texts: they have no tokens, words or characters")
        return self.encodings

    def _row(self, first: int, second: int | None) -> tuple[Encoding, int]:
        return (self._all()[0], first) if second is None else (self._all()[first], second)


def is_tensor(value: object) -> bool:
    """Whether a value is PyTorch's, which is not imported for it: where it is not there, nothing is."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _as_tensor(name: str, value: Any, tensor_type: str) -> Any:
    if is_tensor(value):
        return value if tensor_type == "pt" else value.numpy()
    try:
        array = np.array(value)
    except ValueError:
        raise InputError(f"return_tensors: the rows of {name} differ in length; pass padding=True") from None
    if array.dtype.kind not in "biuf":
        if array.size:
            raise InputError(f"return_tensors: {name} holds {array.dtype}, expected numbers")
        array = array.astype(np.int64)
    if not array.size:
        array = array.astype(np.int64)
    if tensor_type == "np":
        return array
    import torch  # seconds, of which those who ask for lists or arrays know nothing

    # PyTorch's own default, as where a list becomes a tensor.
    return torch.from_numpy(array.astype(np.float32) if array.dtype == np.float64 else array)
