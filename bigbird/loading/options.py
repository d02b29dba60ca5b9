"""What a call that loads a model may be given by name, each taken apart once.

Knows the names of transformers' `from_pretrained`; reads no file.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import torch

from bigbird.config import BigBirdConfig
from bigbird.config_values import CONFIG_KEYWORDS
from bigbird.errors import ConfigError
from bigbird.loading.hub import HUB_KEYWORDS, HubOptions
from bigbird.loading.keywords import refuse_unknown


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """How a model is loaded.

    config: in the place of the checkpoint's own; a configuration, or where one is read.
    dtype (or torch_dtype): of the parameters; "auto" is the one the checkpoint names, None is float32.
    device: the CPU when None. device_map: the same, as one device, {"": device}, or "auto" for a GPU if there is one.
    check_finite: refuse weights that hold nan or inf. ignore_mismatched_sizes: draw anew what has another shape.
    """

    config: BigBirdConfig | str | os.PathLike[str] | None = None
    dtype: str | torch.dtype | None = None
    torch_dtype: str | torch.dtype | None = None
    device: torch.device | str | int | None = None
    device_map: Any = None
    check_finite: bool = False
    ignore_mismatched_sizes: bool = False

    def __post_init__(self) -> None:
        for one, other in (("dtype", "torch_dtype"), ("device", "device_map")):
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise ConfigError(f"{one} and {other} are two names of one thing, give one of them")
        _ = self.parameter_type, self.place

    @classmethod
    def taken_from(cls, call: str, keywords: Mapping[str, Any]) -> tuple[Self, HubOptions, dict[str, Any]]:
        """Of keyword arguments: how to load, how to fetch, and changes of the configuration.

        call: the function's name, for the TypeError that refuses another argument.
        """
        names = [each.name for each in fields(cls)]
        refuse_unknown(call, keywords, {*names, *HUB_KEYWORDS, *CONFIG_KEYWORDS})
        options, rest = HubOptions.taken_from(keywords)
        changes = {name: value for name, value in rest.items() if name not in names}
        return cls(**{name: value for name, value in rest.items() if name in names}), options, changes

    @property
    def parameter_type(self) -> torch.dtype | None:
        """None for the checkpoint's own."""
        given = self.torch_dtype if self.dtype is None else self.dtype
        return None if given == "auto" else as_dtype(given)

    @property
    def place(self) -> torch.device:
        given = self.device_map if self.device is None else self.device
        if isinstance(given, Mapping) and list(given) == [""]:
            given = given[""]
        if isinstance(given, str) and given == "auto":
            given = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            return torch.device("cpu" if given is None else given)
        except (TypeError, RuntimeError):
            raise ConfigError(f"device_map is {given!r}, expected one device such as 'cpu' or 'cuda:0'") from None


def as_dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    """A floating-point type by its name; float32 for None."""
    if dtype is None:
        return torch.float32
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ConfigError(f'dtype must be a floating-point type such as "float32" or "bfloat16", got {dtype!r}')
    return found
