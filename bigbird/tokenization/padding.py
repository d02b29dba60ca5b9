"""Rows of token ids that were made before, filled up to one length: `pad`, as collators of transformers call it.

Knows names and lengths; nothing of texts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bigbird.errors import InputError
from bigbird.tokenization.arguments import check_at_least, padding_strategy, round_up, side
from bigbird.tokenization.batch_encoding import BatchEncoding, is_tensor

Rows = Mapping[str, Any] | Sequence[Mapping[str, Any]]


def pad_rows(
    rows: Rows,
    *,
    fill: Mapping[str, int],
    padding: bool | str | None,
    max_length: int | None,
    pad_to_multiple_of: int | None,
    padding_side: str,
    return_attention_mask: bool,
    return_tensors: str | None,
) -> BatchEncoding:
    """Rows of one length, as lists unless tensors came in or are asked for.

    rows: one mapping for each row, or one of lists. fill: what each padded name is filled up with; other names, such
    as labels, stay. max_length: for padding to max_length. Raises InputError for rows without input_ids or of
    different names, and for one that is longer than max_length.
    """
    values = _by_name(rows)
    ids = values.get("input_ids")
    if ids is None:
        raise InputError(f"the rows have {', '.join(values) or 'nothing'}, expected input_ids")
    for is_one, name in ((is_tensor, "pt"), (_is_array, "np")):
        if is_one(ids) or (len(ids) and is_one(ids[0])):
            return_tensors = return_tensors or name
    values = {name: _as_lists(value) for name, value in values.items()}
    one = bool(values["input_ids"]) and not isinstance(values["input_ids"][0], list)
    if one:
        values = {name: [value] for name, value in values.items()}
    lengths = [len(row) for row in values["input_ids"]]
    for name, value in values.items():
        if not isinstance(value, list) or len(value) != len(lengths):
            raise InputError(f"{name} does not have one value for each of the {len(lengths)} rows of input_ids")
    if return_attention_mask:
        values.setdefault("attention_mask", [[1] * length for length in lengths])
    check_at_least("pad_to_multiple_of", pad_to_multiple_of, 1)
    strategy = padding_strategy(padding)
    if strategy == "max_length" and max_length is None:
        raise InputError("padding is 'max_length': max_length is needed, for the tokenizer names no model_max_length")
    longest = max(lengths, default=0)
    length = round_up(
        max_length if strategy == "max_length" and max_length is not None else longest, pad_to_multiple_of
    )
    if strategy is not None:
        if longest > length:
            raise InputError(f"input_ids[{lengths.index(longest)}]: {longest} tokens, max_length is {max_length}")
        left = side("padding_side", padding_side) == "left"
        for name in fill.keys() & values.keys():
            values[name] = [_filled(row, length, fill[name], left) for row in values[name]]
    if one:
        values = {name: value[0] for name, value in values.items()}
    return BatchEncoding(values, tensor_type=return_tensors)


def _by_name(rows: Rows) -> dict[str, Any]:
    if isinstance(rows, Mapping):
        return dict(rows)
    names = list(rows[0]) if len(rows) else ["input_ids"]
    for index, row in enumerate(rows):
        if set(row) != set(names):
            raise InputError(f"row {index} has {', '.join(row)}, the first row has {', '.join(names)}")
    return {name: [row[name] for row in rows] for name in names}


def _is_array(value: object) -> bool:
    return isinstance(value, np.ndarray)


def _as_lists(value: Any) -> Any:
    if is_tensor(value) or _is_array(value):
        return value.tolist()
    return [_as_lists(part) for part in value] if isinstance(value, list | tuple) else value


def _filled(row: list[int], length: int, value: int, left: bool) -> list[int]:
    missing = [value] * (length - len(row))
    return [*missing, *row] if left else [*row, *missing]
