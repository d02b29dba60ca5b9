"""pipelines.scoring.schemas: declared columns, and examples from tables."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bigbird.errors import InputError
from bigbird.predictors import OPTIONS
from pipelines.scoring.plan import list_columns
from pipelines.scoring.schemas import (
    ERROR_TYPE,
    TASKS,
    InputColumns,
    check_input_types,
    examples,
    output_schema,
    record_columns,
    record_of,
    result_fields,
)

TEXT = {"text": "text"}


def of_one(table, columns):
    return [example for (example,) in examples(table, [columns])]


def test_every_task_of_the_library_has_a_declared_schema():
    assert set(OPTIONS) <= set(TASKS)
    for task in TASKS:
        names = [field.name for field in result_fields(task)]
        assert names[-3:] == ["num_tokens", "num_windows", "truncated"]


def test_a_batch_of_errors_alone_has_the_types_of_any_other():
    failed = {"error": {"type": "InputError", "message": "text is null", "retryable": False}}
    for task in TASKS:
        fields = result_fields(task, embedding_size=4)
        columns = record_columns([failed, failed], task, fields)
        assert [column.type for column in columns] == [*(field.type for field in fields), ERROR_TYPE]
        assert all(column.null_count == 2 for column in columns[:-1])
        assert columns[-1].null_count == 0


def test_a_record_field_without_a_column_is_not_dropped_silently():
    record = {"nll": 1.0, "pseudo_perplexity": 2.7, "num_tokens": 1, "num_windows": 1, "truncated": False, "new": 1}
    with pytest.raises(AssertionError, match="new"):
        record_columns([record], "masked-lm-scoring", result_fields("masked-lm-scoring"))


def test_choices_are_read_from_one_column_and_their_scores_written_to_another():
    fields = result_fields("multiple-choice")
    record = {"choices": [0.25, 0.75], "best": 1, "num_tokens": 9, "num_windows": 2, "truncated": False}
    columns = dict(
        zip([field.name for field in fields], record_columns([record], "multiple-choice", fields), strict=False)
    )
    assert columns["scores"].to_pylist() == [[0.25, 0.75]]
    output_schema(pa.schema([("prompt", pa.string()), ("choices", pa.list_(pa.string()))]), {"": fields})


def test_a_row_gives_back_the_record_that_its_columns_were_made_of():
    fields = result_fields("multiple-choice")
    scored = {"choices": [0.25, 0.75], "best": 1, "num_tokens": 9, "num_windows": 2, "truncated": False}
    failed = {"error": {"type": "InputError", "message": "text is null", "retryable": False}}
    columns = record_columns([scored, failed], "multiple-choice", fields)
    rows = pa.table(columns, names=[*(field.name for field in fields), "error"]).to_pylist()
    assert [record_of(row, "multiple-choice") for row in rows] == [scored, failed]


def test_aggregation_none_declares_tokens_in_the_place_of_groups():
    class Options:
        aggregation_strategy = "none"

    (entities, *_) = result_fields("token-classification", options=Options())
    assert [entities.type.value_type.field(i).name for i in range(2)] == ["entity", "index"]


def test_several_generated_texts_and_their_logprobs_are_declared():
    options = OPTIONS["text-generation"](temperature=1.0, logprobs=True, prompt_logprobs=True, num_return_sequences=2)
    text = {"generated_text": "a", "finish_reason": "stop", "num_prompt_tokens": 1, "num_generated_tokens": 2}
    text["logprobs"] = [-1.0, -0.5]
    text["prompt_logprobs"] = [-2.0]
    record = {**text, "generated_sequences": [text, text], "num_tokens": 0, "num_windows": 1, "truncated": False}
    fields = result_fields("text-generation", options=options)
    columns = record_columns([record], "text-generation", fields)
    assert {f.name: column[0].as_py() for f, column in zip(fields, columns[:-1], strict=True)} == record


def test_an_embedding_is_a_list_of_fixed_size():
    assert result_fields("feature-extraction", embedding_size=8)[0].type == pa.list_(pa.float32(), 8)


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.dictionary(pa.int32(), pa.string()),
        pa.dictionary(pa.int8(), pa.large_string()),
        pa.string_view(),
    ],
)
def test_any_kind_of_string_column_will_do(kind):
    check_input_types(pa.schema([("text", kind)]), TEXT)
    table = pa.table({"text": pa.array(["a", None], pa.string()).cast(kind)})
    assert of_one(table, TEXT) == ["a", None]


def test_bytes_that_are_no_text_become_a_string_no_predictor_takes_and_leave_the_others_alone():
    stored = pa.array([b"good", b"b\xffd", None], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 3, stored.buffers())
    choices = pa.ListArray.from_arrays(pa.array([0, 2, 2, 3]), text)
    for column in (text, text.dictionary_encode(), text.cast(pa.string_view())):
        assert of_one(pa.table({"text": column}), TEXT) == ["good", "b\udcffd", None]
    columns = {"prompt": "prompt", "choices": "choices"}
    rows = of_one(pa.table({"prompt": ["p"] * 3, "choices": choices}), columns)
    assert [row["choices"] for row in rows] == [["good", "b\udcffd"], [], [None]]


def test_a_dotted_name_reaches_into_structs():
    table = pa.table({"doc": [{"body": {"en": "hi"}}, {"body": None}, None]})
    columns = {"text": "doc.body.en"}
    check_input_types(table.schema, columns)
    assert of_one(table, columns) == ["hi", None, None]


@pytest.mark.parametrize(
    ("schema", "columns", "message"),
    [
        (pa.schema([("body", pa.string())]), TEXT, "'text' is not in the input; its columns are body"),
        (pa.schema([("text", pa.int64())]), TEXT, "'text' has type int64; expected string"),
        (pa.schema([("text", pa.binary())]), TEXT, "'text' has type binary; expected string"),
        (pa.schema([("choices", pa.string())]), {"choices": "choices"}, "expected list of string"),
        (pa.schema([("choices", pa.list_(pa.int8()))]), {"choices": "choices"}, "expected list of string"),
        (pa.schema([("doc", pa.struct([("a", pa.string())]))]), {"text": "doc.b"}, "'doc.b' is not in the input"),
    ],
)
def test_missing_and_mistyped_columns_are_refused_by_name(schema, columns, message):
    with pytest.raises(InputError, match=message):
        check_input_types(schema, columns)


def test_a_null_in_any_column_makes_the_example_null():
    table = pa.table({"question": ["q", None, "q"], "context": ["c", "c", None]})
    columns = InputColumns().of_task("question-answering")
    assert of_one(table, columns) == [{"question": "q", "context": "c"}, None, None]


def test_an_input_column_with_the_name_of_a_result_is_refused():
    with pytest.raises(InputError, match="'error', 'nll'"):
        output_schema(pa.schema([("nll", pa.int8()), ("error", pa.string())]), {"": result_fields("masked-lm-scoring")})


def test_an_unknown_task_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="'summarization' is not known; the tasks are fill-mask,"):
        InputColumns().of_task("summarization")


def test_a_column_named_as_one_that_rows_have_on_the_way_is_refused_unless_it_is_left_out(tmp_path):
    pq.write_table(pa.table({"text": ["a"], "__read_error": ["b"]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="input column '__read_error' has a name that jobs use themselves"):
        list_columns([str(tmp_path)], {"text": "text"}, None)
    _, kept = list_columns([str(tmp_path)], {"text": "text"}, ["text"])
    assert kept.names == ["text"]
