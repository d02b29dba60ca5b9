"""What the keywords of a tokenizer's call may be: applied, or refused by name.

Knows their values and what they mean; nothing of texts or tokens.
"""

from bigbird.errors import InputError

LARGE_INTEGER = int(1e20)
"""A model_max_length above it says that there is none, as in transformers, which writes 1e30."""


def padding_strategy(padding: bool | str | None) -> str | None:
    """ "longest", "max_length", or None for no padding."""
    if padding is None or padding is False or padding == "do_not_pad":
        return None
    if padding is True or padding == "longest":
        return "longest"
    if padding == "max_length":
        return "max_length"
    raise InputError(f"padding is {padding!r}, expected True, False, 'longest', 'max_length' or 'do_not_pad'")


def truncation_strategy(truncation: bool | str | None) -> str | None:
    """ "longest_first", "only_first", "only_second", or None for no truncation."""
    if truncation is None or truncation is False or truncation == "do_not_truncate":
        return None
    if truncation is True:
        return "longest_first"
    if truncation in ("longest_first", "only_first", "only_second"):
        return str(getattr(truncation, "value", truncation))
    raise InputError(
        f"truncation is {truncation!r}, expected True, False, 'longest_first', 'only_first', 'only_second' "
        "or 'do_not_truncate'"
    )


def side(name: str, value: str) -> str:
    """ "left" or "right"; name: the argument's."""
    if value not in ("left", "right"):
        raise InputError(f"{name} is {value!r}, expected 'left' or 'right'")
    return value


def check_tensors(return_tensors: str | None) -> None:
    """Raises InputError for other tensors than PyTorch's and NumPy's."""
    if return_tensors not in (None, "pt", "np"):
        raise InputError(f"return_tensors is {return_tensors!r}, expected 'pt', 'np' or None")


def check_at_least(name: str, value: int | None, least: int) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
        raise InputError(f"{name} is {value!r}, expected a whole number of at least {least}")


def round_up(length: int, multiple: int | None) -> int:
    return length if multiple is None else -(-length // multiple) * multiple
