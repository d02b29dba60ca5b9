"""One type for a column whose files differ, which holds the values of all of them exactly, or none.

    int32, int64            -> int64                    uint64, int64          -> decimal128(20, 0)
    decimals                -> as many digits           float, double          -> double
    strings of all kinds    -> string, large_string     lists, fixed or not    -> list, large_list
    structs                 -> all of their fields      zones of a timestamp   -> UTC
    int64, double           -> double, if every integer is at most 2**53: what types do not tell, `fits` does

Knows Arrow; no files.
"""

from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.types as pt

Path = tuple[str, ...]
"""Where a type stands in a column: its name, then names of struct fields, and ITEM, KEY, VALUE."""

ITEM, KEY, VALUE = "[]", "{key}", "{value}"

Fits = Callable[[Path, pa.DataType], bool]
"""Whether all values that stand at a path in all files can be cast to a type without a change."""

EXACT_IN_DOUBLE = 2**53
_UNITS = ("s", "ms", "us", "ns")
_BITS = {pt.is_float16: 11, pt.is_float32: 24, pt.is_float64: 53}


def leaf_paths(name: str, kind: pa.DataType) -> Iterator[tuple[Path, pa.DataType]]:
    """The leaves of a column in the order in which Parquet stores them."""
    path = (name,)
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    children: list[tuple[str, pa.DataType]] = []
    if pt.is_struct(kind):
        children = [(field.name, field.type) for field in kind]
    elif pt.is_map(kind):
        children = [(KEY, kind.key_type), (VALUE, kind.item_type)]
    elif _is_list(kind):
        children = [(ITEM, kind.value_type)]
    else:
        yield path, kind
    for child, child_kind in children:
        for below, leaf in leaf_paths(child, child_kind):
            yield path + below, leaf


def common_type(a: pa.DataType, b: pa.DataType, path: Path, fits: Fits) -> pa.DataType | None:
    """The type that holds the values of both exactly; None where there is none."""
    if a.equals(b) or pt.is_null(b):
        return a
    if pt.is_null(a):
        return b
    if isinstance(a, pa.BaseExtensionType) or isinstance(b, pa.BaseExtensionType):
        return _common_extension(a, b, path, fits)
    for family in (_dictionary, _number, _time, _text, _nested):
        found = family(a, b, path, fits)
        if found is not None:
            return found
    return None


def _common_extension(a: pa.DataType, b: pa.DataType, path: Path, fits: Fits) -> pa.DataType | None:
    if _is_tensor(a) and _is_tensor(b):
        from ray.data.extensions import ArrowVariableShapedTensorType  # where there are tensors, Ray wrote them

        same = a.value_type.equals(b.value_type) and len(a.shape) == len(b.shape)
        return ArrowVariableShapedTensorType(a.value_type, len(a.shape)) if same else None
    extensions = [kind for kind in (a, b) if isinstance(kind, pa.BaseExtensionType)]
    if len(extensions) == 2 or extensions[0] == pa.json_(pa.string()):  # text beside JSON text would read as another
        return None
    a, b = (kind.storage_type if kind in extensions else kind for kind in (a, b))
    return common_type(a, b, path, fits)


def _dictionary(a: pa.DataType, b: pa.DataType, path: Path, fits: Fits) -> pa.DataType | None:
    if not pt.is_dictionary(a) and not pt.is_dictionary(b):
        return None
    a, b = (kind.value_type if pt.is_dictionary(kind) else kind for kind in (a, b))
    return common_type(a, b, path, fits)


def _number(a: pa.DataType, b: pa.DataType, path: Path, fits: Fits) -> pa.DataType | None:
    kinds = (a, b)
    if all(map(pt.is_floating, kinds)):
        return max(kinds, key=lambda kind: int(kind.bit_width))
    exact = [_digits(kind) for kind in kinds]
    if None not in exact:
        if all(map(pt.is_integer, kinds)) and not (pa.uint64() in kinds and any(map(pt.is_signed_integer, kinds))):
            signed = any(map(pt.is_signed_integer, kinds))
            bits = max(k.bit_width * (2 if signed and pt.is_unsigned_integer(k) else 1) for k in kinds)
            return pa.type_for_alias(f"{'' if signed else 'u'}int{bits}")
        scale = max(digits[1] for digits in exact if digits)
        precision = scale + max(digits[0] for digits in exact if digits)
        return pa.decimal128(precision, scale) if precision <= 38 else _decimal256(precision, scale)
    floats = [kind for kind in kinds if pt.is_floating(kind)]
    integers = [kind for kind in kinds if pt.is_integer(kind)]
    if floats and integers:
        bits = next(bits for is_kind, bits in _BITS.items() if is_kind(floats[0]))
        needed = integers[0].bit_width - pt.is_signed_integer(integers[0])
        if needed <= bits:
            return floats[0]
        return pa.float64() if needed <= 53 or fits(path, pa.float64()) else None
    return None


def _digits(kind: pa.DataType) -> tuple[int, int] | None:
    """Digits before and after the point that a type holds."""
    if pt.is_decimal(kind):
        return kind.precision - kind.scale, kind.scale
    if pt.is_integer(kind):
        return len(str(2 ** (kind.bit_width - pt.is_signed_integer(kind)))), 0
    return None


def _decimal256(precision: int, scale: int) -> pa.DataType | None:
    return pa.decimal256(precision, scale) if precision <= 76 else None


def _time(a: pa.DataType, b: pa.DataType, path: Path, fits: Fits) -> pa.DataType | None:
    if pt.is_date(a) and pt.is_date(b):
        return pa.date64()
    if pt.is_time(a) and pt.is_time(b):
        unit = max(a.unit, b.unit, key=_UNITS.index)
        return pa.time64(unit) if unit in ("us", "ns") else pa.time32(unit)
    both = (a, b)
    if not (all(map(pt.is_timestamp, both)) or all(map(pt.is_duration, both))):
        return None
    unit = max(a.unit, b.unit, key=_UNITS.index)
    wanted = pa.duration(unit)
    if pt.is_timestamp(a):
        if (a.tz is None) != (b.tz is None):
            return None
        wanted = pa.timestamp(unit, a.tz if a.tz == b.tz else "UTC")
    return wanted if a.unit == b.unit or fits(path, wanted) else None


def _text(a: pa.DataType, b: pa.DataType, path: Path, fits: Fits) -> pa.DataType | None:
    if _is_string(a) and _is_string(b):
        return pa.large_string() if {a, b} - {pa.string()} else pa.string()
    if _is_binary(a) and _is_binary(b):
        return pa.large_binary() if {pa.large_binary(), pa.binary_view()} & {a, b} else pa.binary()
    return None


def _nested(a: pa.DataType, b: pa.DataType, path: Path, fits: Fits) -> pa.DataType | None:
    if pt.is_struct(a) and pt.is_struct(b):
        fields = {field.name: field.type for field in a}
        if len(fields) < a.num_fields or len({field.name for field in b}) < b.num_fields:
            return None
        for field in b:
            found = common_type(fields.get(field.name, pa.null()), field.type, (*path, field.name), fits)
            if found is None:
                return None
            fields[field.name] = found
        return pa.struct(list(fields.items()))
    if pt.is_map(a) and pt.is_map(b):
        key = common_type(a.key_type, b.key_type, (*path, KEY), fits)
        value = common_type(a.item_type, b.item_type, (*path, VALUE), fits)
        return None if key is None or value is None else pa.map_(key, value)
    if _is_list(a) and _is_list(b):
        item = common_type(a.value_type, b.value_type, (*path, ITEM), fits)
        if item is None:
            return None
        if pt.is_fixed_size_list(a) and pt.is_fixed_size_list(b) and a.list_size == b.list_size:
            return pa.list_(item, a.list_size)
        large = any(pt.is_large_list(kind) or pt.is_large_list_view(kind) for kind in (a, b))
        return pa.large_list(item) if large else pa.list_(item)
    return None


def cast_exactly(column: pa.ChunkedArray, wanted: pa.DataType) -> pa.ChunkedArray:
    """A column as the type that `common_type` found for it. Raises ArrowInvalid where a value does not fit."""
    if column.type.equals(wanted):
        return column
    if _is_tensor(wanted) and _is_tensor(column.type):
        return pa.chunked_array(
            [chunk.to_var_shaped_tensor_array(len(wanted.shape)) for chunk in column.chunks], wanted
        )
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.cast(column.type.storage_type)
    if any(pt.is_list_view(kind) or pt.is_large_list_view(kind) for kind in _types_below(column.type)):
        # Arrow's own cast of list views loses their items.
        return pa.chunked_array([pa.array(chunk.to_pylist(), wanted) for chunk in column.chunks], wanted)
    return column.cast(wanted)


def _types_below(kind: pa.DataType) -> Iterator[pa.DataType]:
    yield kind
    for index in range(kind.num_fields):
        yield from _types_below(kind.field(index).type)


def _is_tensor(kind: pa.DataType) -> bool:
    return isinstance(kind, pa.ExtensionType) and kind.extension_name.startswith("ray.data.arrow")


def _is_list(kind: pa.DataType) -> bool:
    views = pt.is_list_view(kind) or pt.is_large_list_view(kind)
    return bool(pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind) or views)


def _is_string(kind: pa.DataType) -> bool:
    return bool(pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind))


def _is_binary(kind: pa.DataType) -> bool:
    sized = pt.is_fixed_size_binary(kind) or pt.is_binary_view(kind)
    return bool(pt.is_binary(kind) or pt.is_large_binary(kind) or sized)
