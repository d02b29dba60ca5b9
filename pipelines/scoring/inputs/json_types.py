"""Types of JSON values, found from all of them, and values as Arrow arrays of those types.

What one Arrow type holds without loss has it. What no type holds (a number here and a string there, an integer
beyond 64 bits, a number with more digits than a double, an empty object) is kept as JSON text, type `arrow.json`.
Strings stay strings, whatever they look like.

Knows JSON and Arrow; no files.
"""

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

from pipelines.scoring.inputs.types import EXACT_IN_DOUBLE

JSON_TEXT = pa.json_(pa.string())

_MAX_FIELDS = 1000  # an object with more different keys in a column is a dictionary of somebody's, not a record
_MAX_DEPTH = 16
_DIGITS_OF_DOUBLE = 15

NOTHING, BOOL, INTEGER, FLOAT, STRING, LIST, OBJECT, TEXT = (
    "nothing", "bool", "integer", "float", "string", "list", "object", "JSON text",
)  # fmt: skip


class Literal:
    """A number as it is written, where Python's or Arrow's would be another one."""

    def __init__(self, text: str) -> None:
        self.text = text


class Repeated:
    """An object in which a key occurs twice."""

    def __init__(self, pairs: Sequence[tuple[str, Any]]) -> None:
        self.pairs = pairs


@dataclass
class Kind:
    """What the values of a column have in common. `bound`: the largest magnitude of its integers."""

    what: str = NOTHING
    bound: int = 0
    item: "Kind | None" = None
    fields: "dict[str, Kind]" = field(default_factory=dict)

    def arrow(self) -> pa.DataType:
        """The Arrow type; null where there was no value."""
        if self.what == LIST:
            return pa.list_((self.item or Kind()).arrow())
        if self.what == OBJECT and self.fields:
            return pa.struct([(name, kind.arrow()) for name, kind in self.fields.items()])
        simple = {NOTHING: pa.null(), BOOL: pa.bool_(), INTEGER: pa.int64(), FLOAT: pa.float64(), STRING: pa.string()}
        return simple.get(self.what, JSON_TEXT)


def parse(line: bytes) -> dict[str, Any]:
    """The object of a line of UTF-8. Raises ValueError where it holds none, or one with a key that is there twice or
    is no Unicode text."""
    try:
        text = line.decode(errors="surrogatepass")  # json itself would guess at UTF-16, whose lines are cut elsewhere
        value = json.loads(text, object_pairs_hook=_object, parse_float=_float, parse_int=_integer)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if isinstance(value, Repeated):
        names = [name for name, _ in value.pairs]
        raise ValueError(f"key {next(name for name in names if names.count(name) > 1)!r} occurs twice")
    if not isinstance(value, dict):
        raise ValueError(f"expected one object a line, found {line[:40].decode(errors='replace')}")
    if not all(map(_is_unicode, value)):
        raise ValueError("a key is no Unicode text: it has a lone surrogate")
    return value


def _object(pairs: list[tuple[str, Any]]) -> "dict[str, Any] | Repeated":
    found = dict(pairs)
    return found if len(found) == len(pairs) else Repeated(pairs)


def _float(text: str) -> "float | Literal":
    value = float(text)
    if len(text) > _DIGITS_OF_DOUBLE or "e" in text.lower():
        try:
            same = Decimal(text) == Decimal(repr(value))
        except InvalidOperation:  # an exponent beyond that of decimals too
            same = False
        return value if same else Literal(text)
    return value


def _integer(text: str) -> "int | Literal":
    if len(text) > 20 or not -(2**63) <= int(text) < 2**63:
        return Literal(text)
    return int(text)


def kind_of(value: Any, depth: int = 0) -> Kind:
    """The kind of one value."""
    if value is None:
        return Kind()
    if isinstance(value, bool):
        return Kind(BOOL)
    if isinstance(value, int):
        return Kind(INTEGER, bound=abs(value))
    if isinstance(value, float):
        return Kind(FLOAT)
    if isinstance(value, str):
        return Kind(STRING if _is_unicode(value) else TEXT)
    if depth == _MAX_DEPTH or isinstance(value, Literal | Repeated):
        return Kind(TEXT)
    if isinstance(value, list):
        return Kind(LIST, item=_kind_of_items(value, depth))
    if not all(map(_is_unicode, value)):
        return Kind(TEXT)
    return Kind(OBJECT, fields={name: kind_of(inner, depth + 1) for name, inner in value.items()})


def _kind_of_items(values: list[Any], depth: int) -> Kind:
    if set(map(type, values)) == {float}:  # a vector
        return Kind(FLOAT)
    return functools.reduce(merge, (kind_of(value, depth + 1) for value in values), Kind())


def merge(a: Kind, b: Kind) -> Kind:
    """The kind of what is either."""
    if a.what == NOTHING or b.what == NOTHING:
        return b if a.what == NOTHING else a
    if a.what == b.what == LIST:
        return Kind(LIST, item=merge(a.item or Kind(), b.item or Kind()))
    if a.what == b.what == OBJECT:
        fields = dict(a.fields)
        for name, kind in b.fields.items():
            fields[name] = merge(fields[name], kind) if name in fields else kind
        return Kind(OBJECT, fields=fields) if len(fields) <= _MAX_FIELDS else Kind(TEXT)
    bound = max(a.bound, b.bound)
    if a.what == b.what:
        return Kind(a.what, bound=bound)
    if {a.what, b.what} == {INTEGER, FLOAT} and bound <= EXACT_IN_DOUBLE:
        return Kind(FLOAT, bound=bound)
    return Kind(TEXT)


def to_array(values: list[Any], kind: pa.DataType) -> pa.Array:
    """JSON values as an array of the type found for them. Raises ValueError or ArrowException for another type."""
    convert = _converter(kind)
    stored = _stored(kind)
    array = pa.array(values if convert is None else map(convert, values), stored, size=len(values))
    return array if stored == kind else array.cast(kind)


def text_of(value: Any) -> str:
    """A value as JSON text, as exact as it was read."""
    if isinstance(value, Literal):
        return value.text
    if isinstance(value, list):
        return f"[{','.join(map(text_of, value))}]"
    if isinstance(value, dict | Repeated):
        pairs = value.items() if isinstance(value, dict) else value.pairs
        return f"{{{','.join(f'{text_of(name)}:{text_of(inner)}' for name, inner in pairs)}}}"
    return json.dumps(value, ensure_ascii=not (isinstance(value, str) and _is_unicode(value)))


def _converter(kind: pa.DataType) -> Callable[[Any], Any] | None:
    """What makes of a JSON value what Arrow takes for it; None where Arrow takes it as it is."""
    if kind == JSON_TEXT:
        return lambda value: None if value is None else text_of(value)
    if pt.is_string(kind):
        return _string
    if pt.is_list(kind):
        inner = _converter(kind.value_type)
        return lambda value: _items(value, inner)
    if pt.is_struct(kind):
        fields = {f.name: _converter(f.type) for f in kind}
        return lambda value: None if value is None else _fields(value, fields)
    return None


def _string(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise ValueError(f"expected a string, found {text_of(value)[:80]}")


def _items(value: Any, convert: Callable[[Any], Any] | None) -> list[Any] | None:
    if value is not None and not isinstance(value, list):  # Arrow would take a string for a list of its characters
        raise ValueError(f"expected a list, found {text_of(value)[:80]}")
    return value if value is None or convert is None else [convert(item) for item in value]


def _fields(value: Any, fields: dict[str, Callable[[Any], Any] | None]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, found {text_of(value)[:80]}")
    return {name: convert(value.get(name)) if convert else value.get(name) for name, convert in fields.items()}


def _stored(kind: pa.DataType) -> pa.DataType:
    """The type without extensions: Arrow makes arrays of those, and casts them."""
    if kind == JSON_TEXT:
        return pa.string()
    if pt.is_list(kind):
        return pa.list_(_stored(kind.value_type))
    if pt.is_struct(kind):
        return pa.struct([(f.name, _stored(f.type)) for f in kind])
    return kind


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return True
