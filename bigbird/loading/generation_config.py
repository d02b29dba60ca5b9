"""generation_config.json: what a checkpoint says about generating with it. transformers reads and writes the same file.

Which of its values a call applies is `bigbird.generation`'s matter.
"""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bigbird.config import BigBirdConfig
from bigbird.errors import CheckpointError

FILE = "generation_config.json"
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


class GenerationConfig(SimpleNamespace):
    """The file's values as attributes, kept as they are and written back.

    bos_token_id, pad_token_id: an id or None. eos_token_id: an id, a list of ids, or None. Where the file does not
    name them they are the model configuration's.
    """

    @classmethod
    def of(cls, config: BigBirdConfig) -> "GenerationConfig":
        """What holds for a model without a file."""
        return cls(**{name: getattr(config, name) for name in _TOKENS})

    @classmethod
    def load(cls, directory: Path, config: BigBirdConfig) -> "GenerationConfig":
        """Raises CheckpointError for a file that is not a JSON object."""
        path = directory / FILE
        if not path.is_file():
            return cls.of(config)
        try:
            values: Any = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path}: not readable JSON: {error}") from error
        if not isinstance(values, dict):
            raise CheckpointError(f"{path}: expected a JSON object, found {type(values).__name__}")
        return cls(**vars(cls.of(config)) | values)

    def save(self, directory: Path) -> None:
        text = json.dumps(vars(self), ensure_ascii=False, indent=2, sort_keys=True)
        (directory / FILE).write_text(text + "\n", encoding="utf-8")

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """eos_token_id as a tuple, () for None."""
        ids = self.eos_token_id
        return () if ids is None else (ids,) if isinstance(ids, int) else tuple(ids)
