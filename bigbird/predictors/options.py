"""Options of the tasks: frozen, hashable, every value checked against its field's type when it is made.

Knows the fields that all tasks share; a task's own stand in `tasks`.
"""

import types
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from bigbird.errors import InputError

OnLong = Literal["window", "truncate", "error"]
OptionsT = TypeVar("OptionsT")


@dataclass(frozen=True, kw_only=True)
class LengthOptions:
    """What to do with documents of every length; the fields all tasks but text-generation share.

    on_long: for a document longer than the model: "window" reads it all in overlapping windows, "truncate"
        reads its beginning and says so in the record, "error" makes it an error record.
    window_overlap: tokens two neighbouring windows share at least, up to half a window (so that no token is
        read much more than twice); None is 256, or a quarter of the window where that is less.
    max_length: tokens of one window, special tokens included; None is the model's max_position_embeddings.
    max_tokens_per_document: a document with more tokens is an error record, whatever on_long says: it guards
        against hostile input. Texts above 16 characters a token of it are refused before they are tokenized.

    A list given for a tuple is kept as one. Raises InputError for a value of another type or out of range.
    """

    on_long: OnLong = "window"
    window_overlap: int | None = None
    max_length: int | None = None
    max_tokens_per_document: int = 1_000_000

    def __post_init__(self) -> None:
        check_types(self)
        require_at_least("window_overlap", self.window_overlap, 0)
        require_at_least("max_length", self.max_length, 1)
        require_at_least("max_tokens_per_document", self.max_tokens_per_document, 1)

    def length_limit(self, max_position_embeddings: int) -> int:
        """Tokens one window may have, special tokens included. Raises InputError where the model has fewer."""
        if self.max_length is None:
            return max_position_embeddings
        if self.max_length > max_position_embeddings:
            raise InputError(
                f"max_length is {self.max_length}, but the model reads at most {max_position_embeddings} tokens"
            )
        return self.max_length


@dataclass(frozen=True, kw_only=True)
class WindowOptions(LengthOptions):
    """Lengths, and whether the record lists the windows of a document: where a result came from.

    return_windows: the record's `windows` has for each window, from left to right, start and end, the characters of
    the text it reads (of the longer one of a pair), and what the task says of it.
    """

    return_windows: bool = False


def changed(options: OptionsT, changes: dict[str, Any]) -> OptionsT:
    """The options with other values. Raises InputError for one that does not exist, naming the nearest."""
    names = [field.name for field in fields(options)]  # type: ignore[arg-type]
    for name in changes:
        if name not in names:
            near = get_close_matches(name, names, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; the options are {', '.join(names)}"
            raise InputError(f"{name} is not an option of this task{hint}")
    return replace(options, **changes)  # type: ignore[type-var]


def check_types(options: Any) -> None:
    """Raise InputError naming a field whose value is not of its type; lists become tuples."""
    for name, hint in get_type_hints(type(options)).items():
        object.__setattr__(options, name, _checked(name, getattr(options, name), hint))


def require_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise InputError unless `value` is one of `choices`."""
    if value not in choices:
        raise InputError(f"{name} is {value!r}, expected one of {', '.join(choices)}")


def require_at_least(name: str, value: int | None, least: int) -> None:
    """Raise InputError for an integer below `least`."""
    if value is not None and value < least:
        raise InputError(f"{name} is {value!r}, expected an integer of at least {least}")


def _checked(name: str, value: Any, hint: Any) -> Any:
    if get_origin(hint) in (types.UnionType, Union):
        if value is None:
            return None
        (hint,) = (part for part in get_args(hint) if part is not type(None))
    if get_origin(hint) is Literal:
        require_choice(name, value, get_args(hint))
    elif get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise InputError(f"{name} is {value!r}, expected a list of {get_args(hint)[0].__name__}")
        return tuple(_checked(f"{name}[{index}]", item, get_args(hint)[0]) for index, item in enumerate(value))
    elif type(value) is not hint:
        raise InputError(f"{name} is {value!r}, expected {_NAMES[hint]}")
    return value


_NAMES = {bool: "True or False", int: "an integer", str: "a string"}
