"""New modules whose weights nobody has drawn, for weights that are about to be replaced."""

from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode


class Undrawn(TorchFunctionMode):
    """Within it new modules keep the memory that they are given, as it is, and no random number is drawn.

    On the meta device PyTorch would import its whole compiler, for two seconds, to draw numbers that nothing holds.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == nn.init.__name__:
            return kwargs["tensor"]
        return func(*args, **(kwargs or {}))
