"""Text to token ids with character offsets, and back.

Loads `tokenizer.json` as it is; a directory that has only `spiece.model` is converted by `spiece`. Which
token plays which part (`[CLS]`, `[MASK]`, ...) is read from `tokenizer_config.json` and `special_tokens_map.json`
when they are there; ids are always those of the files. Padding or truncation settings stored in a `tokenizer.json`
are dropped: nothing is cut unless a call asks for it.

Knows nothing of models, tensors' devices, windows or batching by budget.
"""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tokenizers
import torch

from bigbird.errors import CheckpointError, InputError
from bigbird.loading.hub import resolve
from bigbird.tokenization.charsmap import NormalizedText
from bigbird.tokenization.files import (
    input_names,
    read_settings,
    read_tokenizer,
    register_special_tokens,
    token_names,
    with_exact_charsmap,
)

Text = str | tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """One text, or pair of texts, as tokens; every list has one entry a token.

    ids: token ids. tokens: their spelling; that of a `[MASK]` in the text begins with the space it swallowed.
    token_type_ids: 0 for the first text and its special tokens, 1 for the second.
    offsets: (start, end) in characters of the original text the token belongs to; (0, 0) for added special tokens.
    sequence_ids: 0 or 1, the text the token belongs to; None for added special tokens.
    special_tokens_mask: 1 for special tokens added around the texts. A `[MASK]` written in the text has 0.
    """

    ids: list[int]
    token_type_ids: list[int]
    offsets: list[tuple[int, int]]
    sequence_ids: list[int | None]
    special_tokens_mask: list[int]
    tokens: list[str]

    def __len__(self) -> int:
        return len(self.ids)


class BigBirdTokenizer:
    """`[CLS] A [SEP]` and `[CLS] A [SEP] B [SEP]`, as the checkpoint's files say.

    Immutable, and safe to share between threads and to send to another process.
    """

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        settings: dict[str, Any] | None = None,
        *,
        spiece_model: bytes | None = None,
    ) -> None:
        """tokenizer: taken over, not copied. settings: the keys of tokenizer_config.json.

        spiece_model: the SentencePiece file it was made from, kept only to be saved again: the tokenizers of
            transformers 4 read that, and not a tokenizer.json of today.
        Raises CheckpointError when the vocabulary lacks the padding, class, separator or mask token.
        """
        self._settings = dict(settings or {})
        self._spiece_model = spiece_model
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._special = register_special_tokens(tokenizer, self._settings)
        self.model_input_names = input_names(self._settings)
        self._saved_json = tokenizer.to_str()
        self._charsmap, self._tokenizer = with_exact_charsmap(tokenizer, self._saved_json)

    @classmethod
    def from_pretrained(cls, dir_or_hub_id: str | os.PathLike[str]) -> "BigBirdTokenizer":
        """The tokenizer of a directory or hub id; raises CheckpointError when it holds none."""
        directory = resolve(dir_or_hub_id, weights=False)
        settings = read_settings(directory)
        spiece_path = directory / "spiece.model"
        spiece_model = spiece_path.read_bytes() if spiece_path.is_file() else None
        if (directory / "tokenizer.json").is_file():
            return cls(read_tokenizer(directory / "tokenizer.json"), settings, spiece_model=spiece_model)
        if spiece_model is not None:
            from bigbird.tokenization.spiece import convert

            return cls(convert(spiece_path, token_names(settings)), settings, spiece_model=spiece_model)
        raise CheckpointError(f"{directory}: found neither tokenizer.json nor spiece.model")

    @classmethod
    def from_file(cls, tokenizer_json_path: str | os.PathLike[str]) -> "BigBirdTokenizer":
        """A tokenizer.json alone, with the special tokens of the published checkpoints."""
        return cls(read_tokenizer(Path(tokenizer_json_path)))

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Writes tokenizer.json, tokenizer_config.json and special_tokens_map.json; transformers 5 loads them.

        Where there was a spiece.model it is written too, for the slow tokenizer of transformers 4.
        """
        path = Path(directory)
        path.mkdir(parents=True, exist_ok=True)
        (path / "tokenizer.json").write_text(self._saved_json, encoding="utf-8")
        if self._spiece_model is not None:
            (path / "spiece.model").write_bytes(self._spiece_model)
        # transformers' own BigBird class would rebuild the model from the vocabulary; this one keeps the file.
        settings = {
            **self._settings,
            **self._special,
            "model_input_names": self.model_input_names,
            "tokenizer_class": "PreTrainedTokenizerFast",
        }
        for name, content in (
            ("tokenizer_config.json", settings),
            ("special_tokens_map.json", self._special),
        ):
            (path / name).write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")

    def encode(self, text: str, text_pair: str | None = None, *, add_special_tokens: bool = True) -> Encoding:
        """One text, or a pair. Raises InputError for what is not valid text."""
        return self.encode_batch(
            [text if text_pair is None else (text, text_pair)], add_special_tokens=add_special_tokens
        )[0]

    def encode_batch(self, texts: Sequence[Text], *, add_special_tokens: bool = True) -> list[Encoding]:
        """Texts, or pairs of texts, in the order given; the same as one by one, but on all cores.

        Raises InputError naming the first item that is not valid text.
        """
        prepared, sources = self._prepare(texts)
        encoded = self._tokenizer.encode_batch(prepared, add_special_tokens=add_special_tokens)
        return [_as_encoding(encoding, source) for encoding, source in zip(encoded, sources, strict=True)]

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """Ids back to text. Raises InputError for an id outside the vocabulary."""
        return self._tokenizer.decode(self._checked(ids), skip_special_tokens=skip_special_tokens)

    def convert_ids_to_tokens(self, ids: Iterable[int]) -> list[str]:
        """The vocabulary's spelling of each id. Raises InputError for an id outside the vocabulary."""
        return [self._tokenizer.id_to_token(token_id) or "" for token_id in self._checked(ids)]

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """Spellings of the vocabulary, joined as the decoder joins them; any other string stands for itself."""
        decoder = self._tokenizer.decoder
        return " ".join(tokens) if decoder is None else str(decoder.decode(list(tokens)))

    def token_to_id(self, token: str) -> int | None:
        """The id of a vocabulary entry, None when there is no such entry."""
        return self._tokenizer.token_to_id(token)

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included: the rows an embedding needs."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    @property
    def pad_token_id(self) -> int:
        return self._special_id("pad_token")

    @property
    def bos_token_id(self) -> int:
        return self._special_id("bos_token")

    @property
    def eos_token_id(self) -> int:
        return self._special_id("eos_token")

    @property
    def unk_token_id(self) -> int:
        return self._special_id("unk_token")

    @property
    def cls_token_id(self) -> int:
        return self._special_id("cls_token")

    @property
    def sep_token_id(self) -> int:
        return self._special_id("sep_token")

    @property
    def mask_token_id(self) -> int:
        return self._special_id("mask_token")

    @property
    def mask_token(self) -> str:
        """The mask as one writes it in a text."""
        return self._special["mask_token"]

    @property
    def all_special_ids(self) -> list[int]:
        """Ids of the special tokens this vocabulary has, ascending."""
        return sorted({self._special_id(role) for role in self._special})

    def __call__(
        self,
        texts: str | Sequence[str],
        text_pair: str | Sequence[str] | None = None,
        *,
        padding: bool | Literal["longest", "max_length"] = False,
        max_length: int | None = None,
        truncation: bool | Literal["longest_first", "only_first", "only_second"] = False,
        return_tensors: Literal["pt", "np"] | None = None,
    ) -> dict[str, Any]:
        """The call of transformers' tokenizers, for people who come from there.

        Returns `model_input_names`: input_ids and attention_mask (1 = a token, 0 = padding, on the right), and
        token_type_ids for a checkpoint that was trained with them: lists, or with return_tensors int64 tensors or
        arrays of shape (batch, seq_len).
        Raises InputError where transformers warns or cuts: a text longer than max_length without truncation, or a
        truncation without max_length.
        """
        single = isinstance(texts, str)
        firsts = [texts] if isinstance(texts, str) else list(texts)
        seconds = [text_pair] if isinstance(text_pair, str) else None if text_pair is None else list(text_pair)
        if seconds is not None and len(seconds) != len(firsts):
            raise InputError(f"text_pair: {len(seconds)} texts for {len(firsts)} first texts")
        if max_length is None and (truncation or padding == "max_length"):
            raise InputError("max_length: needed for truncation and for padding to max_length, got None")
        pairs: list[Text] = list(firsts) if seconds is None else list(zip(firsts, seconds, strict=True))
        rows = [(row.ids, row.token_type_ids) for row in self._encode_to(pairs, max_length, truncation)]
        longest = max((len(ids) for ids, _ in rows), default=0)
        if padding == "max_length" and max_length is not None:
            longest = max_length
        batch: dict[str, Any] = {"input_ids": [], "token_type_ids": [], "attention_mask": []}
        for ids, types in rows:
            fill = longest - len(ids) if padding else 0
            batch["input_ids"].append([*ids, *[self.pad_token_id] * fill])
            batch["token_type_ids"].append([*types, *[0] * fill])
            batch["attention_mask"].append([1] * len(ids) + [0] * fill)
        batch = {name: batch[name] for name in self.model_input_names}
        if return_tensors is None:
            return {key: value[0] for key, value in batch.items()} if single else batch
        if len({len(ids) for ids in batch["input_ids"]}) > 1:
            raise InputError("return_tensors: the rows differ in length; pass padding=True")
        shape = (len(rows), longest if padding else len(batch["input_ids"][0]) if rows else 0)
        arrays = {key: np.array(value, dtype=np.int64).reshape(shape) for key, value in batch.items()}
        return arrays if return_tensors == "np" else {key: torch.from_numpy(value) for key, value in arrays.items()}

    def _encode_to(self, texts: Sequence[Text], max_length: int | None, truncation: bool | str) -> list[Encoding]:
        """Encodings of at most max_length tokens, special tokens counted."""
        if not truncation or max_length is None:
            rows = self.encode_batch(texts)
            for index, row in enumerate(rows):
                if max_length is not None and len(row) > max_length:
                    raise InputError(
                        f"texts[{index}]: {len(row)} tokens, max_length is {max_length}; pass truncation=True to cut"
                    )
            return rows
        prepared, sources = self._prepare(texts)
        rows = []
        for index, (text, source) in enumerate(zip(prepared, sources, strict=True)):
            parts = [self._tokenizer.encode(part, add_special_tokens=False) for part in _parts(text)]
            room = max_length - self._tokenizer.num_special_tokens_to_add(len(parts) == 2)
            limits = _limits([len(part) for part in parts], room, truncation)
            if limits is None:
                raise InputError(
                    f"texts[{index}]: cannot be cut to max_length {max_length} with truncation {truncation!r}"
                )
            for part, limit in zip(parts, limits, strict=True):
                part.truncate(limit)
            whole = self._tokenizer.post_process(parts[0], parts[1] if len(parts) == 2 else None)
            rows.append(_as_encoding(whole, source))
        return rows

    def _prepare(self, texts: Sequence[Text]) -> tuple[list[Text], list[list[NormalizedText]]]:
        """Texts as the tokenizers library gets them, with the way back to the originals where they were changed."""
        sources: list[list[NormalizedText]] = []
        for index, text in enumerate(texts):
            if isinstance(text, tuple) and len(text) != 2:
                raise InputError(f"texts[{index}]: expected a text or a pair, got a tuple of {len(text)}")
            for part in _parts(text):
                _check_text(part, index)
            sources.append([] if self._charsmap is None else [self._charsmap.normalize(p) for p in _parts(text)])
        if self._charsmap is None:
            return list(texts), sources
        return [s[0].text if len(s) == 1 else (s[0].text, s[1].text) for s in sources], sources

    def _special_id(self, role: str) -> int:
        token_id = self._tokenizer.token_to_id(self._special[role]) if role in self._special else None
        if token_id is None:
            raise CheckpointError(f"tokenizer: the vocabulary has no {role}")
        return token_id

    def _checked(self, ids: Iterable[int]) -> list[int]:
        plain = [int(token_id) for token_id in ids]
        for token_id in plain:
            if not 0 <= token_id < self.vocab_size:
                raise InputError(f"ids: {token_id} is outside the vocabulary of {self.vocab_size}")
        return plain


def _parts(text: Text) -> tuple[str, ...]:
    return text if isinstance(text, tuple) else (text,)


def _check_text(text: object, index: int) -> None:
    if not isinstance(text, str):
        raise InputError(f"texts[{index}]: expected a str, got {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"texts[{index}]: character {error.start} is a lone surrogate (U+{ord(text[error.start]):04X})"
        ) from None


def _as_encoding(encoding: tokenizers.Encoding, sources: Sequence[NormalizedText]) -> Encoding:
    sequence_ids = encoding.sequence_ids
    offsets = encoding.offsets
    if any(source.edits for source in sources):
        of_part = [
            iter(source.original_offsets(o for o, s in zip(offsets, sequence_ids, strict=True) if s == part))
            for part, source in enumerate(sources)
        ]
        offsets = [o if s is None else next(of_part[s]) for o, s in zip(offsets, sequence_ids, strict=True)]
    return Encoding(
        ids=encoding.ids,
        token_type_ids=encoding.type_ids,
        offsets=offsets,
        sequence_ids=sequence_ids,
        special_tokens_mask=encoding.special_tokens_mask,
        tokens=encoding.tokens,
    )


def _limits(lengths: list[int], room: int, truncation: bool | str) -> list[int] | None:
    """Tokens each text keeps so that all fit in `room`, by transformers' rules; None when it cannot be done."""
    excess = sum(lengths) - room
    if excess <= 0:
        return lengths
    if truncation in ("only_first", "only_second"):
        cut = int(truncation == "only_second")
        if cut >= len(lengths) or lengths[cut] < excess:
            return None
        return [length - excess if index == cut else length for index, length in enumerate(lengths)]
    if room < 0:
        return None
    if len(lengths) == 1:
        return [room]
    # longest_first: the longer text gives first; once both are equal they share, and the longer has the odd one.
    short = min(lengths)
    kept = [short, room - short] if 2 * short <= room else [room // 2, room - room // 2]
    return kept[::-1] if lengths[0] > lengths[1] else kept
