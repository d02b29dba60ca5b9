"""What a tokenizer's files say: the stored tokenizer, its settings, and which token plays which part.

Knows tokenizer.json, tokenizer_config.json and special_tokens_map.json; knows nothing of encoding.
"""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from bigbird.errors import CheckpointError
from bigbird.tokenization.charsmap import Charsmap

# The tokens of the published checkpoints, used where the files name none.
_DEFAULT_TOKENS = {
    "pad_token": "<pad>",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
EXTRA_TOKENS = ("additional_special_tokens", "extra_special_tokens")
"""How special tokens without a part are called, by transformers 4 and by transformers 5."""
SETTINGS = (
    *ROLES,
    *EXTRA_TOKENS,
    "model_max_length",
    "model_input_names",
    "padding_side",
    "truncation_side",
    "clean_up_tokenization_spaces",
)
"""The keys of tokenizer_config.json that decide something here; the others are kept and written again."""
_REQUIRED = ("pad_token", "cls_token", "sep_token", "mask_token")
_INPUT_NAMES = ("input_ids", "token_type_ids", "attention_mask")


def read_tokenizer(path: Path) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # the tokenizers library raises bare Exception
        raise CheckpointError(f"{path}: not a readable tokenizer.json: {error}") from error


def read_settings(directory: Path) -> dict[str, Any]:
    """tokenizer_config.json, completed by special_tokens_map.json; empty when neither exists."""
    settings: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (directory / name).is_file():
            try:
                content = json.loads((directory / name).read_text(encoding="utf-8"))
            except ValueError as error:
                raise CheckpointError(f"{directory / name}: not valid JSON: {error}") from error
            if not isinstance(content, dict):
                raise CheckpointError(f"{directory / name}: expected a JSON object, found {type(content).__name__}")
            settings |= content
    return settings


def token_names(settings: Mapping[str, Any]) -> dict[str, str]:
    """Which token plays which part: role such as "mask_token" to its spelling."""
    names: dict[str, str] = {}
    for role, default in _DEFAULT_TOKENS.items():
        value = settings.get(role, default)
        if isinstance(value, dict):  # a stored AddedToken
            value = value.get("content")
        if isinstance(value, str):
            names[role] = value
    return names


def check_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A copy; raises CheckpointError for a value of the wrong type."""
    found = dict(settings)
    for name in EXTRA_TOKENS:
        if not isinstance(found.get(name) or [], list | tuple):
            raise CheckpointError(f"tokenizer: {name} is {found[name]!r}, expected a list")
    length = found.get("model_max_length")
    if length is not None and (isinstance(length, bool) or not isinstance(length, int | float) or length < 1):
        raise CheckpointError(f"tokenizer: model_max_length is {length!r}, expected a number of at least 1")
    for role in ROLES:
        if not isinstance(found.get(role), str | dict | tokenizers.AddedToken | None):
            raise CheckpointError(f"tokenizer: {role} is {found[role]!r}, expected a token")
        if isinstance(found.get(role), tokenizers.AddedToken):
            found[role] = found[role].content
    return found


def extra_tokens(settings: Mapping[str, Any]) -> list[str]:
    """Special tokens without a part of their own."""
    tokens = [token for name in EXTRA_TOKENS for token in settings.get(name) or ()]
    return [str(token["content"] if isinstance(token, dict) else token) for token in tokens]


def add_stored_tokens(tokenizer: tokenizers.Tokenizer, settings: Mapping[str, Any]) -> None:
    """The tokens that tokenizer_config.json adds to a spiece.model, at the ids it gives them."""
    stored = settings.get("added_tokens_decoder") or {}
    for token_id, token in sorted((int(key), value) for key, value in stored.items()):
        if tokenizer.token_to_id(token["content"]) is None:
            kept = {key: token[key] for key in ("single_word", "lstrip", "rstrip", "normalized") if key in token}
            added = tokenizers.AddedToken(token["content"], special=bool(token.get("special")), **kept)
            tokenizer.add_tokens([added])
        if (found := tokenizer.token_to_id(token["content"])) != token_id:
            raise CheckpointError(
                f"tokenizer: {token['content']!r} gets id {found}, added_tokens_decoder says {token_id}"
            )


def input_names(settings: Mapping[str, Any]) -> list[str]:
    """What a model is fed: without token_type_ids, as transformers' BigBird tokenizers, unless the files name them.

    Of the classes a BigBird checkpoint may name in the place of those, BERT's alone brings types by itself.
    Raises CheckpointError for other names.
    """
    typed = str(settings.get("tokenizer_class")).removesuffix("Fast") == "BertTokenizer"
    default = [name for name in _INPUT_NAMES if typed or name != "token_type_ids"]
    names = settings.get("model_input_names") or default
    if not isinstance(names, list) or names[0] != "input_ids" or set(names) - set(_INPUT_NAMES):
        raise CheckpointError(
            f"tokenizer: model_input_names is {names!r}, expected input_ids first, and of the others some of "
            f"{', '.join(_INPUT_NAMES[1:])}"
        )
    return list(names)


def register_special_tokens(tokenizer: tokenizers.Tokenizer, settings: Mapping[str, Any]) -> dict[str, str]:
    """Makes the tokens with a part special, where the file has not; returns role to spelling for those it has."""
    names = {r: token for r, token in token_names(settings).items() if tokenizer.token_to_id(token) is not None}
    missing = [f"{role} {token_names(settings).get(role)!r}" for role in _REQUIRED if role not in names]
    if missing:
        raise CheckpointError(f"tokenizer: the vocabulary lacks {', '.join(missing)}")
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    for role, token in names.items():
        if token not in special:
            # The mask takes the space before it with it: "a [MASK]" is two tokens.
            mask = role == "mask_token"
            tokenizer.add_special_tokens([tokenizers.AddedToken(token, lstrip=mask, normalized=False, special=True)])
    return names


def with_exact_charsmap(tokenizer: tokenizers.Tokenizer, as_json: str) -> tuple[Charsmap | None, tokenizers.Tokenizer]:
    """A SentencePiece character map that comes first is taken out of the tokenizer and run exactly."""
    content = json.loads(as_json)
    normalizer = content["normalizer"] or {}
    steps = normalizer.get("normalizers", [normalizer])
    if not steps or steps[0].get("type") != "Precompiled":
        return None, tokenizer
    protected = [token["content"] for token in content["added_tokens"] if not token["normalized"]]
    charsmap = Charsmap(base64.b64decode(steps[0]["precompiled_charsmap"]), protected)
    content["normalizer"] = {"type": "Sequence", "normalizers": steps[1:]} if steps[1:] else None
    return charsmap, tokenizers.Tokenizer.from_str(json.dumps(content))
