"""What one completion may ask for, and the words in which it is refused: OpenAI's, with the client's own fields.

It knows numbers of tokens and the library's options by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from serving.errors import ServingError

# OpenAI's, where a request does not say.
DEFAULT_MAX_TOKENS = 16
# Of one answer, alternatives counted: 4,096 tokens of a prompt with 5 alternatives are a tenth of it.
MAX_LOGPROBS = 2**18

# Options of the library that clients know by other names.
_CLIENTS_NAMES = {"max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens", "num_top_logprobs": "logprobs"}


def too_long(limit: int, requested: str, param: str) -> ServingError:
    """The refusal of more tokens than the model reads."""
    return ServingError(
        "context_length_exceeded",
        f"This model's maximum context length is {limit} tokens, however {requested}. "
        "Please reduce your prompt; or completion length.",
        param=param,
    )


def room_for(num_ids: int, max_tokens: int | None, limit: int) -> int:
    """How many tokens to generate after `num_ids`: as many as asked for, or OpenAI's default as far as there is room.

    limit: of both together. Raises ServingError.
    """
    asked = min(DEFAULT_MAX_TOKENS, max(1, limit - num_ids)) if max_tokens is None else max_tokens
    if num_ids + asked > limit:
        requested = f"you requested {num_ids + asked} tokens ({num_ids} in your prompt; {asked} for the completion)"
        raise too_long(limit, requested, "prompt" if num_ids >= limit else "max_tokens")
    return asked


def check_cost(
    num_ids: Sequence[int], options: Mapping[str, Any], num_copies: int, *, echo: bool, max_tokens: int
) -> None:
    """Refuses prompts too long together, and more log-probabilities than one answer should hold.

    num_ids: tokens of each prompt, which gets num_copies continuations. max_tokens: of all prompts together.
    """
    if sum(num_ids) > max_tokens:
        raise ServingError("invalid_input", f"prompt: {sum(num_ids)} tokens, the limit is {max_tokens}", param="prompt")
    if options.get("logprobs"):
        num_new = options.get("max_new_tokens", DEFAULT_MAX_TOKENS)
        num_values = (
            num_copies * sum(echo * num + num_new for num in num_ids) * (1 + options.get("num_top_logprobs", 0))
        )
        if num_values > MAX_LOGPROBS:
            raise ServingError(
                "invalid_input",
                f"logprobs: up to {num_values} numbers in one answer, the limit is {MAX_LOGPROBS}",
                param="logprobs",
            )


def client_error(error: Exception) -> Exception:
    """What the library refuses, in the client's words; any other error as it is."""
    from bigbird.errors import InputError

    if not isinstance(error, InputError):
        return error
    message = str(error)
    for name, clients_name in _CLIENTS_NAMES.items():
        message = message.replace(name, clients_name)
    field = message.split()[0]
    return ServingError("invalid_input", message, param=field if field.isidentifier() else None)
