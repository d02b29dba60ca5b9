"""What is compiled on CUDA: called so that a failure says so, and never runs uncompiled instead."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bigbird.errors import CompileError


def call_compiled(function: Callable[..., Tensor], *arguments: Any) -> Tensor:
    """The function's result. Raises CompileError where it cannot be compiled, or was compiled too often."""
    try:
        return function(*arguments)
    except Exception as error:
        from torch._dynamo import config, exc  # where something was compiled it is loaded; else it takes seconds

        if isinstance(error, exc.FailOnRecompileLimitHit):
            limit = config.recompile_limit
            raise CompileError(f"compiled for {limit} kinds of input already, torch's recompile_limit") from error
        if isinstance(error, exc.TorchDynamoException):
            raise CompileError(f"torch.compile failed: {' '.join(str(error).split())[:300]}") from error
        raise


def refuse_uncompiled(what: str) -> None:
    """Called first in a function that is to be compiled: raises CompileError where it runs as it is."""
    if not torch.compiler.is_compiling():
        raise CompileError(f"{what} runs compiled only, and torch.compile is switched off here")
