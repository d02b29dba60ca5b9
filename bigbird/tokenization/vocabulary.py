"""Tokens, their ids and their parts: the side of a tokenizer that needs no text.

Knows which token plays which part, how ids become text again and how tokens are added; nothing of encoding.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, overload

import tokenizers
from tokenizers import AddedToken

from bigbird.errors import InputError
from bigbird.tokenization.files import (
    EXTRA_TOKENS,
    ROLES,
    check_settings,
    extra_tokens,
    register_special_tokens,
    with_exact_charsmap,
)
from bigbird.tokenization.named_tokens import NamedId, NamedToken

# What clean_up_tokenization_spaces takes away: the space that a decoder of words leaves before each of these.
_CLEANED = (".", "?", "!", ",", "n't", "'m", "'s", "'ve", "'re")


class Vocabulary:
    """What a tokenizer knows of its tokens. `len` of it is the rows an embedding needs."""

    bos_token = NamedToken[str | None]()
    eos_token = NamedToken[str | None]()
    unk_token = NamedToken[str | None]()
    sep_token = NamedToken[str]()
    pad_token = NamedToken[str]()
    cls_token = NamedToken[str]()
    mask_token = NamedToken[str]()
    bos_token_id = NamedId[int | None]()
    eos_token_id = NamedId[int | None]()
    unk_token_id = NamedId[int | None]()
    sep_token_id = NamedId[int]()
    pad_token_id = NamedId[int]()
    cls_token_id = NamedId[int]()
    mask_token_id = NamedId[int]()
    pad_token_type_id = 0

    def __init__(self, tokenizer: tokenizers.Tokenizer, settings: Mapping[str, Any]) -> None:
        """Raises CheckpointError when the vocabulary lacks the padding, class, separator or mask token."""
        self._settings = check_settings(settings)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._special = register_special_tokens(tokenizer, self._settings)
        self._extra = extra_tokens(self._settings)
        self._adopt(tokenizer)
        if self._extra:
            self.add_tokens(self._extra, special_tokens=True)

    def _adopt(self, tokenizer: tokenizers.Tokenizer) -> None:
        self._saved_json = tokenizer.to_str()
        self._charsmap, self._tokenizer = with_exact_charsmap(tokenizer, self._saved_json)

    def __len__(self) -> int:
        """Number of ids, added tokens included: the rows an embedding needs."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    def __bool__(self) -> bool:
        return True

    @property
    def vocab_size(self) -> int:
        """Number of ids without added tokens that the model of the tokenizer lacks; `len` counts these too."""
        return self._tokenizer.get_vocab_size(with_added_tokens=False)

    @property
    def digest(self) -> str:
        """SHA-256 of what decides how texts become tokens: two tokenizers of one digest give the same ones."""
        return hashlib.sha256(self._saved_json.encode()).hexdigest()

    @property
    def is_fast(self) -> bool:
        return True

    @property
    def backend_tokenizer(self) -> tokenizers.Tokenizer:
        """The tokenizers library's own object, which reads texts after the character map; to be looked at only."""
        return self._tokenizer

    def get_vocab(self) -> dict[str, int]:
        """Every token with its id."""
        return self._tokenizer.get_vocab(with_added_tokens=True)

    @property
    def vocab(self) -> dict[str, int]:
        return self.get_vocab()

    def get_added_vocab(self) -> dict[str, int]:
        """The added tokens with their ids, special ones among them."""
        return {token.content: token_id for token_id, token in sorted(self.added_tokens_decoder.items())}

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        return self.get_added_vocab()

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        return self._tokenizer.get_added_tokens_decoder()

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """Which token plays which part."""
        return {role: self._special[role] for role in ROLES if role in self._special}

    def set_special_token(self, role: str, token: str) -> None:
        """Let a token of the vocabulary play a part such as "pad_token"."""
        self._special[role] = token

    @property
    def additional_special_tokens(self) -> list[str]:
        """Special tokens without a part of their own."""
        return list(self._extra)

    @property
    def all_special_tokens(self) -> list[str]:
        return list(dict.fromkeys([*self.special_tokens_map.values(), *self._extra]))

    @property
    def all_special_ids(self) -> list[int]:
        return self.convert_tokens_to_ids(self.all_special_tokens)

    def add_tokens(
        self, new_tokens: str | AddedToken | Sequence[str | AddedToken], special_tokens: bool = False
    ) -> int:
        """Tokens that are never split, at the end of the vocabulary; returns how many of them were new.

        special_tokens: `decode` can leave them out. A model needs `resize_token_embeddings(len(tokenizer))` then.
        """
        tokens = [new_tokens] if isinstance(new_tokens, str | AddedToken) else list(new_tokens)
        for index, token in enumerate(tokens):
            if not isinstance(token, str | AddedToken) or not str(token):
                raise InputError(f"new_tokens[{index}] is {token!r}, expected a str or an AddedToken")
        grown = tokenizers.Tokenizer.from_str(self._saved_json)
        count = int(grown.add_special_tokens(tokens) if special_tokens else grown.add_tokens(tokens))
        self._adopt(grown)
        return count

    def add_special_tokens(self, special_tokens_dict: Mapping[str, Any]) -> int:
        """Special tokens by their parts, such as {"pad_token": "[PAD]"}; returns how many were new.

        "additional_special_tokens", or "extra_special_tokens", is a list of those without a part: it takes the place
        of the one before, whose tokens stay in the vocabulary.
        """
        parts: dict[str, str | AddedToken] = {}
        extra: list[str | AddedToken] | None = None
        for role, value in special_tokens_dict.items():
            if role in EXTRA_TOKENS and isinstance(value, list | tuple):
                extra = list(value)
            elif role in ROLES and isinstance(value, str | AddedToken):
                parts[role] = value
            else:
                raise InputError(
                    f"special_tokens_dict: {role} is {value!r}, expected a token for one of {', '.join(ROLES)}, "
                    f"or a list for {EXTRA_TOKENS[0]}"
                )
        given = [*parts.values(), *(extra or [])]
        plain = [AddedToken(t, normalized=False, special=True) if isinstance(t, str) else t for t in given]
        count = self.add_tokens(plain, special_tokens=True) if plain else 0
        self._special |= {role: str(token) for role, token in parts.items()}
        if extra is not None:
            self._extra = [str(token) for token in extra]
        return count

    def token_to_id(self, token: str) -> int | None:
        """The id of a vocabulary entry, None when there is no such entry."""
        return self._tokenizer.token_to_id(token)

    @overload
    def convert_tokens_to_ids(self, tokens: str) -> int: ...  # type: ignore[overload-overlap]  # a str is its own case
    @overload
    def convert_tokens_to_ids(self, tokens: Iterable[str]) -> list[int]: ...
    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> int | list[int]:
        """The id of a token, or of each; the unknown token's for one that is no entry.

        Raises InputError for one that is no entry where the vocabulary has no unknown token.
        """
        if not isinstance(tokens, str):
            return [self.convert_tokens_to_ids(token) for token in tokens]
        found = self.token_to_id(tokens)
        if found is None and (found := self.unk_token_id) is None:
            raise InputError(f"tokens: {tokens!r} is not in the vocabulary, which has no unknown token")
        return found

    @overload
    def convert_ids_to_tokens(self, ids: int, skip_special_tokens: bool = False) -> str: ...
    @overload
    def convert_ids_to_tokens(self, ids: Iterable[int], skip_special_tokens: bool = False) -> list[str]: ...
    def convert_ids_to_tokens(self, ids: int | Iterable[int], skip_special_tokens: bool = False) -> str | list[str]:
        """The vocabulary's spelling of an id, or of each. Raises InputError for an id outside the vocabulary."""
        if _is_scalar([ids]):
            return self.convert_ids_to_tokens([int(ids)])[0]  # type: ignore[arg-type]
        skipped = set(self.all_special_ids) if skip_special_tokens else set()
        return [self._tokenizer.id_to_token(i) or "" for i in self._checked(ids) if i not in skipped]

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """Spellings of the vocabulary, joined as the decoder joins them; any other string stands for itself."""
        decoder = self._tokenizer.decoder
        return " ".join(tokens) if decoder is None else str(decoder.decode(list(tokens)))

    def decode(
        self,
        token_ids: int | Iterable[int],
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> str:
        """One row of ids, a list, an array or a tensor, back to text, special tokens included unless skipped.

        clean_up_tokenization_spaces: no space before a full stop and the like; None: as the tokenizer's files say,
        and not at all where they say nothing.
        Raises InputError for an id outside the vocabulary, and for several rows, which `batch_decode` takes.
        """
        text = self._tokenizer.decode(self._checked(token_ids), skip_special_tokens=skip_special_tokens)
        if clean_up_tokenization_spaces is None:
            # Decoders of BPE write every space themselves: to take some away would corrupt the text.
            is_bpe = isinstance(self._tokenizer.model, tokenizers.models.BPE)
            clean_up_tokenization_spaces = self._settings.get("clean_up_tokenization_spaces", False) and not is_bpe
        return _cleaned(text) if clean_up_tokenization_spaces else text

    def batch_decode(
        self,
        sequences: Iterable[Any],
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> list[str]:
        """Each row of ids as text, as `decode` makes it; one row of ids is one text."""
        rows = list(sequences)
        if _is_scalar(rows[:1]):
            rows = [rows]
        return [self.decode(row, skip_special_tokens, clean_up_tokenization_spaces) for row in rows]

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """How many special tokens stand around a text, or a pair."""
        return self._tokenizer.num_special_tokens_to_add(pair)

    def build_inputs_with_special_tokens(
        self, token_ids_0: Sequence[int], token_ids_1: Sequence[int] | None = None
    ) -> list[int]:
        """[CLS] A [SEP], and [CLS] A [SEP] B [SEP]."""
        second = [] if token_ids_1 is None else [*token_ids_1, self.sep_token_id]
        return [self.cls_token_id, *token_ids_0, self.sep_token_id, *second]

    def create_token_type_ids_from_sequences(
        self, token_ids_0: Sequence[int], token_ids_1: Sequence[int] | None = None
    ) -> list[int]:
        """0 for [CLS] A [SEP], 1 for B [SEP]."""
        second = [] if token_ids_1 is None else [1] * (len(token_ids_1) + 1)
        return [0] * (len(token_ids_0) + 2) + second

    def get_special_tokens_mask(
        self,
        token_ids_0: Sequence[int],
        token_ids_1: Sequence[int] | None = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        """1 where `build_inputs_with_special_tokens` puts a special token, or where the ids already have one."""
        if not already_has_special_tokens:
            second = [] if token_ids_1 is None else [*[0] * len(token_ids_1), 1]
            return [1, *[0] * len(token_ids_0), 1, *second]
        if token_ids_1 is not None:
            raise InputError("token_ids_1: ids that have their special tokens are one row, expected None")
        special = set(self.all_special_ids)
        return [int(token_id in special) for token_id in self._checked(token_ids_0)]

    def _checked(self, ids: int | Iterable[int]) -> list[int]:
        try:
            row: Iterable[Any] = [ids] if _is_scalar([ids]) else ids  # type: ignore[assignment]
            plain = [int(token_id) for token_id in row]
        except (TypeError, ValueError):
            raise InputError("ids: expected one row of token ids; batch_decode takes several rows") from None
        size = len(self)
        for token_id in plain:
            if not 0 <= token_id < size:
                raise InputError(f"ids: {token_id} is outside the vocabulary of {size}")
        return plain


def _is_scalar(values: Sequence[Any]) -> bool:
    """Whether the first is a number, an array or tensor of one without an axis among them."""
    return bool(values) and (isinstance(values[0], int) or getattr(values[0], "ndim", None) == 0)


def _cleaned(text: str) -> str:
    for mark in _CLEANED[:4]:
        text = text.replace(f" {mark}", mark)
    text = text.replace(" ' ", "'")
    for ending in _CLEANED[4:]:
        text = text.replace(f" {ending}", ending)
    return text
