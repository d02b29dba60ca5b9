"""Text to token ids with character offsets, and back, by the interface of transformers' tokenizers.

Loads `tokenizer.json` as it is; a directory that has only `spiece.model` is converted by `spiece`. Which
token plays which part (`[CLS]`, `[MASK]`, ...) is read from `tokenizer_config.json` and `special_tokens_map.json`
when they are there; ids are always those of the files. Padding or truncation settings stored in a `tokenizer.json`
are dropped: nothing is cut unless a call asks for it.

Knows files; how texts are read is `text_encoder`'s, and what tokens are `vocabulary`'s.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from bigbird.errors import CheckpointError
from bigbird.loading.hub import HUB_KEYWORDS, HubOptions, push, resolve
from bigbird.loading.keywords import refuse_unknown
from bigbird.tokenization.arguments import LARGE_INTEGER, side
from bigbird.tokenization.files import (
    EXTRA_TOKENS,
    SETTINGS,
    add_stored_tokens,
    input_names,
    read_settings,
    read_tokenizer,
    token_names,
)
from bigbird.tokenization.text_encoder import TextEncoder


class BigBirdTokenizer(TextEncoder):
    """`[CLS] A [SEP]` and `[CLS] A [SEP] B [SEP]`, as the checkpoint's files say.

    Safe to share between threads and to send to another process, as long as no token is added meanwhile.
    """

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer | str | os.PathLike[str],
        settings: Mapping[str, Any] | None = None,
        *,
        spiece_model: bytes | None = None,
        **more_settings: Any,
    ) -> None:
        """tokenizer: taken over, not copied; or the path of a spiece.model or a tokenizer.json.

        settings, more_settings: keys of tokenizer_config.json. spiece_model: the SentencePiece file it was made from,
            kept only to be saved again: the tokenizers of transformers 4 read that, and not a tokenizer.json of today.
        Raises CheckpointError when the vocabulary lacks the padding, class, separator or mask token.
        """
        refuse_unknown(type(self).__name__, more_settings, (*SETTINGS, "settings", "spiece_model"))
        settings = {**(settings or {}), **more_settings}
        if not isinstance(tokenizer, tokenizers.Tokenizer):
            tokenizer, spiece_model = _read(Path(tokenizer), settings)
        super().__init__(tokenizer, settings)
        self._spiece_model = spiece_model
        self.model_input_names = input_names(settings)
        self.model_max_length = int(settings.get("model_max_length") or 1e30)
        self.padding_side = side("padding_side", settings.get("padding_side", "right"))
        self.truncation_side = side("truncation_side", settings.get("truncation_side", "right"))

    @classmethod
    def from_pretrained(cls, dir_or_hub_id: str | os.PathLike[str], **keywords: Any) -> "BigBirdTokenizer":
        """The tokenizer of a directory, a hub id, or one file, a spiece.model or a tokenizer.json.

        keywords: `HubOptions`, and keys of tokenizer_config.json in the place of the file's own, for example
        model_max_length=1024. Raises CheckpointError when there is no tokenizer, TypeError for another keyword.
        """
        options, settings = HubOptions.taken_from(keywords)
        refuse_unknown(f"{cls.__name__}.from_pretrained", settings, (*SETTINGS, *HUB_KEYWORDS))
        path = Path(dir_or_hub_id)
        if path.is_file():
            return cls(path, settings)
        directory = resolve(dir_or_hub_id, weights=False, options=options)
        settings = {**read_settings(directory), **settings}
        for name in ("tokenizer.json", "spiece.model"):
            if (directory / name).is_file():
                tokenizer, spiece_model = _read(directory / name, settings)
                return cls(tokenizer, settings, spiece_model=spiece_model)
        raise CheckpointError(f"{directory}: found neither tokenizer.json nor spiece.model")

    @classmethod
    def from_file(cls, tokenizer_json_path: str | os.PathLike[str]) -> "BigBirdTokenizer":
        """A tokenizer.json alone, with the special tokens of the published checkpoints."""
        return cls(read_tokenizer(Path(tokenizer_json_path)))

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> tuple[str, ...]:
        """Writes tokenizer.json, tokenizer_config.json and special_tokens_map.json; transformers 5 loads them.

        Where there was a spiece.model it is written too, for the slow tokenizer of transformers 4.
        Returns the paths of the files.
        """
        path = Path(save_directory)
        path.mkdir(parents=True, exist_ok=True)
        settings = {key: value for key, value in self._settings.items() if key not in EXTRA_TOKENS}
        special: dict[str, Any] = {**self.special_tokens_map}
        if self._extra:
            special["additional_special_tokens"] = self.additional_special_tokens
        settings |= {
            **special,
            "model_input_names": self.model_input_names,
            "padding_side": self.padding_side,
            "truncation_side": self.truncation_side,
            # transformers' own BigBird class would rebuild the model from the vocabulary; this one keeps the file.
            "tokenizer_class": "PreTrainedTokenizerFast",
        }
        if self.model_max_length <= LARGE_INTEGER:
            settings["model_max_length"] = self.model_max_length
        written = [path / "tokenizer.json", path / "tokenizer_config.json", path / "special_tokens_map.json"]
        written[0].write_text(self._saved_json, encoding="utf-8")
        for file, content in zip(written[1:], (settings, special), strict=True):
            file.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        if self._spiece_model is not None:
            written.append(path / "spiece.model")
            written[-1].write_bytes(self._spiece_model)
        return tuple(map(str, written))

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Uploads the tokenizer: see `bigbird.loading.hub.push`."""
        return push(self, repo_id, **options)


def _read(path: Path, settings: Mapping[str, Any]) -> tuple[tokenizers.Tokenizer, bytes | None]:
    """The tokenizer of a file, and the spiece.model that it is or that lies beside it."""
    spiece = path.with_name("spiece.model") if path.suffix == ".json" else path
    spiece_model = spiece.read_bytes() if spiece.is_file() else None
    if path.suffix == ".json":
        return read_tokenizer(path), spiece_model
    from bigbird.tokenization.spiece import convert

    tokenizer = convert(path, token_names(settings))
    add_stored_tokens(tokenizer, settings)
    return tokenizer, spiece_model
