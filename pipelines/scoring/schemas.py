"""What goes into a task and what comes out: input columns, examples, and one declared Arrow schema a task.

A row of the output is: the input's own columns, the result columns of the task, `error`, and the row's origin
(`source_file`, `source_row`). Of a job of several scores each has result columns and an `error` of its own, with the
score's name before theirs: `ner_entities`, `ner_error`. Types are declared here and never inferred from a batch, so a
file in which every row failed has the same schema as all others.

Does not know what the numbers mean (`bigbird.predictors` decides that), nor Ray, nor files.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from bigbird.errors import InputError
from pipelines.scoring.inputs.units import SOURCE_FILE, SOURCE_ROW

ORIGIN_FIELDS = (pa.field(SOURCE_FILE, pa.string()), pa.field(SOURCE_ROW, pa.int64()))

ERROR_TYPE = pa.struct([("type", pa.string()), ("message", pa.string()), ("retryable", pa.bool_())])

ERROR_FIELD = pa.field("error", ERROR_TYPE)

_STRING = pa.string()
_SCORE = pa.float64()
_LABELS = pa.list_(pa.struct([("label", _STRING), ("score", _SCORE)]))
_ANSWER = [("answer", _STRING), ("score", _SCORE), ("start", pa.int64()), ("end", pa.int64())]
_COUNTS = [pa.field("num_tokens", pa.int64()), pa.field("num_windows", pa.int32()), pa.field("truncated", pa.bool_())]


@dataclass(frozen=True, kw_only=True)
class InputColumns:
    """Names of the columns a task reads; a dotted name reaches into a struct column (`doc.body`).

    `text_pair` is optional and only read by text-classification.
    """

    text: str = "text"
    text_pair: str | None = None
    question: str = "question"
    context: str = "context"
    prompt: str = "prompt"
    choices: str = "choices"

    def of_task(self, task: str) -> dict[str, str]:
        """The columns `task` reads: name of the example's field -> name of the column.

        Raises InputError for a task that does not exist.
        """
        if task not in TASKS:
            raise InputError(f"task {task!r} is not known; the tasks are {', '.join(TASKS)}")
        if task == "question-answering":
            return {"question": self.question, "context": self.context}
        if task == "multiple-choice":
            return {"prompt": self.prompt, "choices": self.choices}
        if task == "text-generation":
            return {"prompt": self.prompt}
        columns = {"text": self.text}
        if task == "text-classification" and self.text_pair:
            columns["text_pair"] = self.text_pair
        return columns


def result_fields(task: str, *, options: Any = None, embedding_size: int | None = None) -> list[pa.Field]:
    """The columns a task adds, without `error` and the origin.

    `options` is the task's options dataclass (or None for its defaults); some of them change the schema, such as
    `aggregation_strategy="none"` and `return_tokens=True`. `embedding_size` is the width of feature-extraction's
    fixed-size list; without it the list is declared with variable size.
    """
    fields: list[pa.Field]
    if task == "fill-mask":
        candidate = [("token", pa.int64()), ("token_str", _STRING), ("score", _SCORE)]
        if getattr(options, "return_sequence", False):
            candidate.append(("sequence", _STRING))
        mask = pa.struct([("position", pa.int64()), ("candidates", pa.list_(pa.struct(candidate)))])
        fields = [pa.field("masks", pa.list_(mask))]
    elif task == "masked-lm-scoring":
        fields = [pa.field("nll", _SCORE), pa.field("pseudo_perplexity", _SCORE)]
        if getattr(options, "return_tokens", False):
            token = [("token", _STRING), ("start", pa.int64()), ("end", pa.int64()), ("nll", _SCORE)]
            fields.append(pa.field("tokens", pa.list_(pa.struct(token))))
    elif task == "token-classification":
        span = [("score", _SCORE), ("word", _STRING), ("text", _STRING), ("start", pa.int64()), ("end", pa.int64())]
        unmerged = getattr(options, "aggregation_strategy", "simple") == "none"
        name = [("entity", _STRING), ("index", pa.int64())] if unmerged else [("entity_group", _STRING)]
        fields = [pa.field("entities", pa.list_(pa.struct(name + span)))]
    elif task in ("text-classification", "zero-shot-classification"):
        fields = [pa.field("labels", _LABELS)]
    elif task == "multiple-choice":
        fields = [pa.field("scores", pa.list_(_SCORE)), pa.field("best", pa.int64())]
    elif task == "question-answering":
        fields = [pa.field(*field) for field in _ANSWER]
        if getattr(options, "top_k", 1) > 1:
            fields.append(pa.field("answers", pa.list_(pa.struct(_ANSWER))))
    elif task == "feature-extraction":
        vector = pa.list_(pa.float32(), embedding_size or -1)
        every_token = getattr(options, "pooling", "mean") == "none"
        fields = [pa.field("token_embeddings", pa.list_(vector)) if every_token else pa.field("embedding", vector)]
    elif task == "text-generation":
        fields = [pa.field("generated_text", _STRING), pa.field("finish_reason", _STRING)]
        fields += [pa.field("num_prompt_tokens", pa.int64()), pa.field("num_generated_tokens", pa.int64())]
        for reported in ("logprobs", "prompt_logprobs"):
            if getattr(options, reported, False):
                fields.append(pa.field(reported, pa.list_(pa.float64())))
        if getattr(options, "num_return_sequences", 1) > 1:
            fields.append(pa.field("generated_sequences", pa.list_(pa.struct(list(fields)))))
    else:
        raise InputError(f"task {task!r} is not known; the tasks are {', '.join(TASKS)}")
    if getattr(options, "return_windows", False):
        told = {
            "question-answering": [("answers", pa.list_(pa.struct(_ANSWER)))],
            "feature-extraction": [("embedding", pa.list_(pa.float32(), embedding_size or -1))],
            "masked-lm-scoring": [("nll", _SCORE)],
        }.get(task, [("labels", _LABELS)])
        fields.append(pa.field("windows", pa.list_(pa.struct([("start", pa.int64()), ("end", pa.int64()), *told]))))
    return fields + _COUNTS


# A record's field and the column it is written to, where they differ: `choices` is what the input column is called.
_COLUMN_OF_FIELD = {"multiple-choice": {"choices": "scores"}}

TASKS = (
    "fill-mask",
    "masked-lm-scoring",
    "token-classification",
    "text-classification",
    "zero-shot-classification",
    "multiple-choice",
    "question-answering",
    "feature-extraction",
    "text-generation",
)


def score_fields(results: Sequence[pa.Field], prefix: str) -> list[pa.Field]:
    """The columns of one score: its results and `error`, `prefix` before their names."""
    return [field.with_name(f"{prefix}{field.name}") for field in (*results, ERROR_FIELD)]


def output_schema(kept: pa.Schema, scores: Mapping[str, Sequence[pa.Field]], prefix: str = "") -> pa.Schema:
    """Schema of an output file: kept input columns, and with `prefix` the columns of every score, and the origin.

    scores: by what stands before the names of its columns, the result columns of each. Raises InputError when an input
    column has the name of a column the job writes, or one is there twice.
    """
    ours = [field for own, results in scores.items() for field in score_fields(results, prefix + own)]
    ours += [field.with_name(f"{prefix}{field.name}") for field in ORIGIN_FIELDS]
    names = [field.name for field in ours]
    if clash := _twice(names):
        raise InputError(f"two scores write column {clash!r}; give one of them another name")
    if twice := _twice(kept.names):
        raise InputError(f"input column {twice!r} is there twice; leave it out or rename it")
    taken = sorted(set(names) & set(kept.names))
    if taken:
        raise InputError(
            f"input columns {', '.join(map(repr, taken))} have the names of columns the job writes; "
            "give those a prefix (--prefix), leave these out (--columns), or rename them"
        )
    return pa.schema([*(pa.field(field.name, field.type) for field in kept), *ours], metadata=kept.metadata)


def _twice(names: Sequence[str]) -> str | None:
    """The first by name of those that are there twice."""
    return min((name for name, count in Counter(names).items() if count > 1), default=None)


def own_columns(table: pa.Table, results: Sequence[pa.Field], prefix: str, score_prefix: str = "") -> pa.Table:
    """The columns of an output that a job wrote for one score, and the origin, by their names without the prefixes."""
    own, origin = [field.name for field in (*results, ERROR_FIELD)], [field.name for field in ORIGIN_FIELDS]
    written = [f"{prefix}{score_prefix}{name}" for name in own] + [f"{prefix}{name}" for name in origin]
    return table.select(written).rename_columns(own + origin)


def check_input_types(schema: pa.Schema, columns: Mapping[str, str], names: Sequence[str] = ()) -> None:
    """Raises InputError unless every column a task reads exists and holds strings (for choices: lists of them).

    names: all columns of the input, where the schema has only some.
    """
    for role, name in columns.items():
        found = _type_at(schema, name)
        expected = "list of string" if role == "choices" else "string"
        if found is None:
            raise InputError(f"column {name!r} is not in the input; its columns are {', '.join(names or schema.names)}")
        inner = _plain(found)
        if role == "choices":
            inner = _plain(inner.value_type) if _is_list(inner) else pa.null()
        if not (pa.types.is_string(inner) or pa.types.is_large_string(inner) or pa.types.is_string_view(inner)):
            raise InputError(f"column {name!r} has type {found}; expected {expected}")


def examples(table: pa.Table, columns: Sequence[Mapping[str, str]]) -> list[tuple[Any, ...]]:
    """Of each row the examples of predictors that read these columns, one a predictor.

    A null in any column that a predictor reads makes its example None.
    """
    read = {name for of_one in columns for name in of_one.values()}
    known = {name: _values(column_at(table, name)) for name in read}
    by_score = (_examples({role: known[name] for role, name in of_one.items()}) for of_one in columns)
    return list(zip(*by_score, strict=True))


def _examples(values: Mapping[str, list[Any]]) -> list[Any]:
    if len(values) == 1:
        return next(iter(values.values()))
    rows = (dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True))
    return [None if None in row.values() else row for row in rows]


def record_columns(records: Sequence[Mapping[str, Any]], task: str, results: Sequence[pa.Field]) -> list[pa.Array]:
    """Records as arrays of the declared types: the result columns, then `error`.

    A record with a field that has no declared column is our own mistake and raises AssertionError: an
    undeclared field would otherwise vanish without a word.
    """
    renamed = _COLUMN_OF_FIELD.get(task, {})
    field_of = {renamed.get(field, field): field for record in records for field in record if field != "error"}
    undeclared = set(field_of) - {field.name for field in results}
    assert not undeclared, f"records of {task} have fields without a declared column: {sorted(undeclared)}"
    arrays = [
        pa.array([record.get(field_of.get(field.name, field.name)) for record in records], type=field.type)
        for field in results
    ]
    arrays.append(pa.array([record.get("error") for record in records], type=ERROR_TYPE))
    return arrays


def record_of(row: Mapping[str, Any], task: str) -> dict[str, Any]:
    """The record of which `record_columns` made the columns of a row; other columns stay in it."""
    if row["error"] is not None:
        return {"error": row["error"]}
    fields = {column: field for field, column in _COLUMN_OF_FIELD.get(task, {}).items()}
    return {fields.get(name, name): value for name, value in row.items() if name != "error"}


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _type_at(schema: pa.Schema, name: str) -> pa.DataType | None:
    if name in schema.names:
        return schema.field(name).type
    head, _, rest = name.partition(".")
    if not rest or head not in schema.names or not pa.types.is_struct(schema.field(head).type):
        return None
    return _type_at(pa.schema(list(schema.field(head).type)), rest)


def column_at(table: pa.Table, name: str) -> pa.ChunkedArray:
    """A column of a table; a dotted name reaches into a struct column."""
    if name in table.column_names:
        return table[name]
    head, *path = name.split(".")
    return pc.struct_field(table[head], path)


def _values(column: pa.ChunkedArray) -> list[Any]:
    try:
        values: list[Any] = column.to_pylist()
        return values
    except UnicodeDecodeError:  # writers do not check what they call strings
        return [_value(scalar) for scalar in column]


def _value(scalar: pa.Scalar) -> Any:
    """A string or list of strings; bytes that are no UTF-8 become lone surrogates, which a predictor refuses."""
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        if isinstance(scalar, pa.DictionaryScalar):
            return _value(scalar.value)
        if isinstance(scalar, pa.ListScalar):  # of any size of offsets, and of fixed size
            return [_value(item) for item in scalar.values]
        return scalar.as_buffer().to_pybytes().decode("utf-8", "surrogateescape")


def top_level(name: str, names: Sequence[str]) -> str:
    """The column of a file with columns `names` that holds `name`: `doc` for `doc.body`."""
    return name if name in names else name.partition(".")[0]
