"""Conversion of a SentencePiece model (`spiece.model`) into a tokenizer of the tokenizers library.

Unigram and BPE models, as the file's own trainer_spec says. Needs the optional `sentencepiece` package: the result
is compared with it on a set of probes, and refused when it differs. Known to be different all the same, in unigram
models: SentencePiece adds scores up in 32 bits over the whole text, so between two splittings of (nearly) the same
score, such as `**` `*` and `*` `**`, it may choose the other one.

Knows the file format, the two models and SentencePiece's treatment of spaces; knows nothing of directories.
"""

import os
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from bigbird.errors import CheckpointError
from bigbird.tokenization.charsmap import Charsmap

# sentencepiece_model.proto: ModelProto.TrainerSpec.ModelType and ModelProto.SentencePiece.Type
_UNIGRAM, _BPE = 1, 2
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6

_SPACE = "\u2581"  # how SentencePiece writes a space
# Order in which transformers' slow tokenizer appends special tokens that the model lacks.
_APPENDED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_PROBES = (
    "The quick brown fox, 1234.5 times.",
    "  two  spaces   and\ttabs\n",
    "def f(x):\n    return x_y != None",
    "Ünïcödé ½ ﬁn \uff21",
    "Тест 試験 아침 ทดสอบ שלום",
    "🙂 ▁x▁ \x00",
)


@dataclass(frozen=True, kw_only=True)
class _Piece:
    text: str
    score: float
    kind: int


@dataclass(frozen=True, kw_only=True)
class _Model:
    """The parts of a ModelProto that decide how a text is split."""

    pieces: list[_Piece]
    model_type: int
    byte_fallback: bool
    space_as_suffix: bool
    charsmap: bytes
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool

    def of_kind(self, *kinds: int) -> list[_Piece]:
        return [piece for piece in self.pieces if piece.kind in kinds]


def convert(path: str | os.PathLike[str], special_tokens: Mapping[str, str]) -> Tokenizer:
    """The tokenizer that splits as the SentencePiece model does, with BigBird's special tokens around.

    path: the model file.
    special_tokens: role ("cls_token", ...) to spelling. Those the model lacks get the ids after its last one, as
        transformers' slow tokenizer numbers them.
    Raises CheckpointError without the sentencepiece package, for a file that is no such model, for a kind of model
    other than unigram and BPE, and for one that cannot be converted exactly.
    """
    try:
        import sentencepiece
    except ImportError:
        raise CheckpointError(
            f"{path}: converting a spiece.model needs the sentencepiece package (the extra named spiece)"
        ) from None
    try:
        content = Path(path).read_bytes()
        processor = sentencepiece.SentencePieceProcessor(model_proto=content)
        model = _read_model(content)
    except (OSError, RuntimeError, ValueError, IndexError, KeyError, struct.error) as error:
        raise CheckpointError(f"{path}: not a readable SentencePiece model: {error}") from error
    if model.space_as_suffix:
        raise CheckpointError(f"{path}: treat_whitespace_as_suffix is set; only spaces before words are supported")
    symbols = [p.text for p in model.of_kind(_USER_DEFINED) if p.text not in special_tokens.values()]
    if model.model_type == _UNIGRAM:
        tokenizer = Tokenizer(_unigram(model))
    elif model.model_type == _BPE:
        tokenizer = Tokenizer(_bpe(model, whole_first=bool(symbols)))
    else:
        raise CheckpointError(f"{path}: model_type is {model.model_type}, expected 1 (unigram) or 2 (BPE)")
    tokenizer.normalizer = _normalizer(model)
    steps: list[pre_tokenizers.PreTokenizer] = [
        pre_tokenizers.Metaspace(_SPACE, prepend_scheme="never", split=_splits_at_spaces(model))
    ]
    if symbols and model.model_type == _BPE:
        _require_own_pieces(path, model)
        longest_first = sorted(symbols, key=len, reverse=True)
        steps.append(pre_tokenizers.Split(Regex("|".join(map(re.escape, longest_first))), "isolated"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = _decoder(model)
    _check(path, processor, tokenizer, model)
    _add_special_tokens(tokenizer, special_tokens)
    return tokenizer


def _unigram(model: _Model) -> models.Unigram:
    scores = [piece.score for piece in model.of_kind(_NORMAL)] or [0.0]
    best, worst = max(scores), min(scores)

    def score(piece: _Piece) -> float:
        if piece.kind == _USER_DEFINED:  # SentencePiece's bonus: never worse than any way to build the same bytes
            return len(piece.text.encode()) * best - 0.1
        # What no text produces stays as unlikely as the scale allows: a lower score would move the unknown's.
        return piece.score if piece.kind == _NORMAL else worst

    vocab = [(piece.text, score(piece)) for piece in model.pieces]
    return models.Unigram(vocab, unk_id=_unknown_id(model), byte_fallback=model.byte_fallback)


def _bpe(model: _Model, *, whole_first: bool) -> models.BPE:
    """BPE whose merges are every way to build a piece from two others, best score first.

    whole_first: a stretch that is a piece as it stands is taken without merging.
    """
    ids = {piece.text: index for index, piece in enumerate(model.pieces)}
    parts = {piece.text for piece in model.of_kind(_NORMAL)}
    merges = [
        (-piece.score, cut, piece.text)
        for piece in model.of_kind(_NORMAL)
        for cut in range(1, len(piece.text))
        if piece.text[:cut] in parts and piece.text[cut:] in parts
    ]
    return models.BPE(
        vocab=ids,
        merges=[(text[:cut], text[cut:]) for _, cut, text in sorted(merges)],
        unk_token=model.pieces[_unknown_id(model)].text,
        fuse_unk=True,
        byte_fallback=model.byte_fallback,
        ignore_merges=whole_first,
    )


def _require_own_pieces(path: str | os.PathLike[str], model: _Model) -> None:
    """User-defined symbols are looked up whole, which is exact only if merging finds every other piece too."""
    merging = Tokenizer(_bpe(model, whole_first=False))
    for piece in model.of_kind(_NORMAL):
        if len(merging.encode(piece.text, add_special_tokens=False).ids) != 1:
            raise CheckpointError(
                f"{path}: user-defined symbols beside the BPE piece {piece.text!r}, which merging does not reach, "
                "cannot be converted exactly"
            )


def _normalizer(model: _Model) -> normalizers.Normalizer:
    steps: list[normalizers.Normalizer] = []
    if model.charsmap:
        steps.append(normalizers.Precompiled(model.charsmap))
    if model.remove_extra_whitespaces:
        steps.append(normalizers.Replace(Regex(" {2,}"), " "))
        steps.append(normalizers.Replace(Regex(r"\A "), ""))
        # At the end SentencePiece also drops its own sign. The look-behind keeps the search linear.
        steps.append(normalizers.Replace(Regex(rf"(?<![ {_SPACE}])[ {_SPACE}]+\z"), ""))
    if model.add_dummy_prefix:
        steps.append(normalizers.Prepend(_SPACE))
    steps.append(normalizers.Replace(" ", _SPACE))
    return normalizers.Sequence(steps)


def _splits_at_spaces(model: _Model) -> bool:
    """Whether words can be split apart: not when a piece spans a space, or when a space is unknown by itself."""
    matched = model.of_kind(_NORMAL, _USER_DEFINED)
    return all(_SPACE not in piece.text[1:] for piece in matched) and any(p.text == _SPACE for p in matched)


def _decoder(model: _Model) -> decoders.Decoder:
    if not model.byte_fallback:
        return decoders.Metaspace(_SPACE, prepend_scheme="always" if model.add_dummy_prefix else "never")
    steps: list[decoders.Decoder] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if model.add_dummy_prefix:
        steps.append(decoders.Strip(" ", 1, 0))
    return decoders.Sequence(steps)


def _add_special_tokens(tokenizer: Tokenizer, special_tokens: Mapping[str, str]) -> None:
    for role in _APPENDED:
        if role in special_tokens:
            # The mask takes the space before it with it.
            mask = role == "mask_token"
            token = AddedToken(special_tokens[role], lstrip=mask, normalized=False, special=True)
            tokenizer.add_special_tokens([token])
    cls, sep = special_tokens["cls_token"], special_tokens["sep_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[f"{cls}:0", "$A:0", f"{sep}:0"],
        pair=[f"{cls}:0", "$A:0", f"{sep}:0", "$B:1", f"{sep}:1"],
        special_tokens=[(cls, tokenizer.token_to_id(cls)), (sep, tokenizer.token_to_id(sep))],
    )


def _check(path: str | os.PathLike[str], processor: object, tokenizer: Tokenizer, model: _Model) -> None:
    """Refuses a conversion that does not split as the original does."""
    charsmap = Charsmap(model.charsmap) if model.charsmap else None
    runtime = Tokenizer.from_str(tokenizer.to_str())
    runtime.normalizer = _normalizer(replace(model, charsmap=b""))
    for probe in _PROBES:
        expected = processor.encode(probe)  # type: ignore[attr-defined]
        text = charsmap.normalize(probe).text if charsmap is not None else probe
        found = runtime.encode(text, add_special_tokens=False).ids
        if found != expected:
            raise CheckpointError(f"{path}: converted, {probe!r} gives ids {found}, SentencePiece gives {expected}")


def _unknown_id(model: _Model) -> int:
    return next(index for index, piece in enumerate(model.pieces) if piece.kind == _UNKNOWN)


def _read_model(content: bytes) -> _Model:
    """The file is a protocol buffer; field numbers are those of sentencepiece_model.proto."""
    pieces: list[_Piece] = []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    for number, value in _fields(content):
        if number == 1 and isinstance(value, bytes):
            piece = dict(_fields(value))
            text, score = piece[1], piece.get(2, bytes(4))
            if not isinstance(text, bytes) or not isinstance(score, bytes):
                raise ValueError("a piece of another type")
            pieces.append(_Piece(text=text.decode(), score=struct.unpack("<f", score)[0], kind=int(piece.get(3, 1))))
        elif number == 2 and isinstance(value, bytes):
            trainer = dict(_fields(value))
        elif number == 3 and isinstance(value, bytes):
            normalizer = dict(_fields(value))
    if all(piece.kind != _UNKNOWN for piece in pieces):
        raise ValueError(f"no unknown piece among its {len(pieces)}")
    charsmap = normalizer.get(2, b"")
    if not isinstance(charsmap, bytes):
        raise ValueError("a character map of another type")
    return _Model(
        pieces=pieces,
        model_type=int(trainer.get(3, _UNIGRAM)),
        byte_fallback=bool(trainer.get(35, 0)),
        space_as_suffix=bool(trainer.get(24, 0)),
        charsmap=charsmap,
        add_dummy_prefix=bool(normalizer.get(3, 1)),
        remove_extra_whitespaces=bool(normalizer.get(4, 1)),
    )


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of each field of a protocol buffer message."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        wire_type = key & 7
        if wire_type == 0:
            number, position = _varint(message, position)
            yield key >> 3, number
            continue
        if wire_type == 2:
            size, position = _varint(message, position)
        elif wire_type in (1, 5):
            size = 8 if wire_type == 1 else 4
        else:
            raise ValueError(f"wire type {wire_type}")
        if position + size > len(message):
            raise ValueError("the file ends within a field")
        yield key >> 3, message[position : position + size]
        position += size


def _varint(message: bytes, position: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        byte = message[position]
        position += 1
        result |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return result, position
