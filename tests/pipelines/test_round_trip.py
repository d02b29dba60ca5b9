"""Whatever columns come with the rows, and whoever wrote them, they leave as they came: every value, every type."""

import datetime
import json
import math
import tempfile
from pathlib import Path

import duckdb
import hypothesis.strategies as st
import pandas as pd
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings

from pipelines.scoring.inputs.json_types import JSON_TEXT
from pipelines.scoring.inputs.listing import list_inputs
from pipelines.scoring.inputs.reading import READ_ERROR, read_unit
from pipelines.scoring.inputs.units import cut_units
from pipelines.scoring.ledger.parts import Footer, write_part
from pipelines.scoring.schemas import output_schema
from pipelines.scoring.storage import locate

SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def scored(folder, unit_bytes=500, **listed):
    """The rows of `folder` as a job reads and writes them, without results; what was wrong with a row last."""
    listing = list_inputs([str(folder)], **listed)
    schema = output_schema(listing.schema, {"": []})
    names = []
    with tempfile.TemporaryDirectory() as out:
        for number, unit in enumerate(cut_units(listing.files, unit_bytes)):
            rows = read_unit(unit.without_groups, listing.filesystem, listing.schema)
            errors = rows[READ_ERROR]
            rows = rows.append_column("error", pa.nulls(rows.num_rows, schema.field("error").type))
            rows = rows.select(schema.names).cast(schema).append_column(READ_ERROR, errors)
            names.append(f"part-{number}.parquet")
            write_part(locate(out), names[-1], rows, Footer("run", (), {}))
        found = pa.concat_tables(pq.read_table(f"{out}/{name}") for name in names)
    origins = list(zip(found["source_file"].to_pylist(), found["source_row"].to_pylist(), strict=True))
    # Not `sort_by`, which Arrow has not for every type.
    return pa.concat_tables([found.slice(index, 1) for index in sorted(range(len(origins)), key=origins.__getitem__)])


UNITS = st.sampled_from(["ms", "us", "ns"])
LEAVES = st.one_of(
    st.sampled_from(
        (
            *(pa.int8(), pa.uint16(), pa.int32(), pa.int64(), pa.uint64(), pa.float32(), pa.float64(), pa.bool_()),
            *(pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.binary(3), pa.date32()),
            *(pa.decimal128(20, 3), pa.uuid(), pa.json_(pa.string()), pa.time64("us")),
        )
    ),
    UNITS.map(pa.timestamp),
    UNITS.map(lambda unit: pa.timestamp(unit, "Europe/Berlin")),
    UNITS.map(pa.duration),
)
TYPES = st.recursive(
    LEAVES.filter(lambda kind: not isinstance(kind, pa.BaseExtensionType)),
    lambda inner: st.one_of(
        inner.map(pa.list_),
        inner.map(lambda kind: pa.list_(kind, 2)),
        inner.map(pa.large_list),
        st.lists(inner, min_size=1, max_size=3).map(lambda kinds: pa.struct(list(zip("abc", kinds, strict=False)))),
        inner.map(lambda kind: pa.map_(pa.string(), kind)),
    ),
    max_leaves=4,
)
STRINGS = st.text(st.characters(codec="utf-8"), max_size=8)


def values(kind):
    """Values of an Arrow type as Python has them, null among them."""
    if kind == pa.uuid():
        some = st.binary(min_size=16, max_size=16)
    elif kind == JSON_TEXT:
        some = st.sampled_from(["{}", '{"a":[1,2.50]}', "null", '"x"'])
    elif pa.types.is_integer(kind):
        signed = pa.types.is_signed_integer(kind)
        top = 2 ** (kind.bit_width - signed)
        some = st.integers(-top if signed else 0, top - 1)
    elif pa.types.is_floating(kind):
        some = st.floats(width=kind.bit_width, allow_nan=False)
    elif pa.types.is_boolean(kind):
        some = st.booleans()
    elif pa.types.is_fixed_size_binary(kind):
        some = st.binary(min_size=kind.byte_width, max_size=kind.byte_width)
    elif pa.types.is_binary(kind):
        some = st.binary(max_size=8)
    elif pa.types.is_decimal(kind):
        some = st.decimals(-(10**16), 10**16, places=3)
    elif pa.types.is_date(kind):
        some = st.dates()
    elif pa.types.is_time(kind):
        some = st.times()
    elif pa.types.is_temporal(kind):
        span = {"ms": 2**45, "us": 2**55, "ns": 2**62}[kind.unit]  # years that Python knows
        some = st.integers(-span, span)
    elif pa.types.is_struct(kind):
        some = st.fixed_dictionaries({field.name: values(field.type) for field in kind})
    elif pa.types.is_map(kind):
        some = st.dictionaries(STRINGS, values(kind.item_type), max_size=3).map(lambda items: list(items.items()))
    elif pa.types.is_nested(kind):
        size = {"min_size": 2, "max_size": 2} if pa.types.is_fixed_size_list(kind) else {"max_size": 3}
        some = st.lists(values(kind.value_type), **size)
    else:
        some = STRINGS
    return st.none() | some


@st.composite
def tables(draw, types=LEAVES | TYPES):
    rows = draw(st.integers(1, 12))
    columns = {"text": pa.array([f"text {row}" for row in range(rows)])}
    for number, kind in enumerate(draw(st.lists(types, min_size=1, max_size=4))):
        columns[f"c {number}"] = pa.array(draw(st.lists(values(kind), min_size=rows, max_size=rows)), kind)
    return pa.table(columns)


def by_duckdb(table, path):
    connection = duckdb.connect()
    connection.register("given", table)
    connection.execute(f"copy (select * from given) to '{path}' (format parquet)")


WRITERS = {
    "pyarrow": lambda table, path: pq.write_table(table, path, row_group_size=5, data_page_size=64),
    "pyarrow, dictionaries read": lambda table, path: pq.write_table(
        table.append_column("kind", pa.array(["a", None, "b"] * table.num_rows)[: table.num_rows].dictionary_encode()),
        path,
    ),
    "polars": lambda table, path: polars.from_arrow(table).write_parquet(path),
    "duckdb": by_duckdb,
}
# What polars and duckdb take from Arrow; the rest they do not know.
PLAIN = st.sampled_from(
    (
        *(pa.int8(), pa.int64(), pa.uint64(), pa.float64(), pa.string(), pa.binary(), pa.date32(), pa.timestamp("us")),
        *(pa.list_(pa.int32()), pa.struct([("a", pa.int64()), ("b", pa.list_(pa.string()))]), pa.bool_()),
    )
)


@pytest.mark.parametrize("writer", WRITERS)
@given(data=st.data())
@SETTINGS
def test_values_and_types_of_all_columns_are_those_of_the_file(writer, data):
    table = data.draw(tables() if writer.startswith("pyarrow") else tables(PLAIN))
    with tempfile.TemporaryDirectory() as folder:
        WRITERS[writer](table, f"{folder}/a.parquet")
        given_ = pq.read_table(f"{folder}/a.parquet")
        found = scored(folder)
    assert found[READ_ERROR].null_count == table.num_rows
    for name in given_.column_names:
        assert str(found[name].type) == str(given_[name].type)
        assert found[name].to_pylist() == given_[name].to_pylist()


def test_pandas_gets_back_its_types_and_its_index(tmp_path):
    frame = pd.DataFrame(
        {
            "text": ["a", "b", "c"],
            "whole": pd.array([1, None, 2**62 + 1], dtype="Int64"),
            "kind": pd.Categorical(["x", None, "y"]),
            "when": pd.to_datetime(["2020-01-01", None, "2021-01-01"]).tz_localize("Europe/Berlin"),
            "flag": pd.array([True, None, False], dtype="boolean"),
        },
        index=pd.Index([7, 3, 5], name="key"),
    )
    (tmp_path / "in").mkdir()
    frame.to_parquet(tmp_path / "in" / "a.parquet")
    found = scored(tmp_path / "in", unit_bytes=10**6).to_pandas()
    pd.testing.assert_frame_equal(found[list(frame.columns)], frame)


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(), max_size=5)
    | st.just("2020-01-01T00:00:00Z"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz") | STRINGS, inner, max_size=3),
    max_leaves=6,
)


def same(given_, found, kind):
    """Whether what Arrow holds is what JSON said; an absent key is null."""
    if kind == JSON_TEXT and found is not None:
        found, kind = json.loads(found), None
    if kind is not None and pa.types.is_struct(kind) and isinstance(given_, dict):
        return (
            found is not None
            and given_.keys() <= found.keys()
            and all(same(given_.get(field.name), found[field.name], field.type) for field in kind)
        )
    if kind is not None and pa.types.is_list(kind) and given_ is not None:
        pairs = zip(given_, found, strict=True)
        return all(same(one, other, kind.value_type) for one, other in pairs)
    return given_ == found and isinstance(given_, bool) == isinstance(found, bool)


@given(st.lists(st.dictionaries(st.sampled_from("abc"), JSON_VALUES, max_size=3), min_size=1, max_size=8))
@settings(SETTINGS, max_examples=200)
def test_every_value_of_json_lines_is_kept_whatever_the_others_are(rows):
    with tempfile.TemporaryDirectory() as folder:
        lines = [json.dumps({"text": "text", **row}) for row in rows]
        Path(folder, "a.jsonl").write_text("\n".join(lines))
        found = scored(folder, read={"text": "text"})
    assert found[READ_ERROR].null_count == len(rows)
    for number, row in enumerate(rows):
        for name in {name for row in rows for name in row}:
            assert same(row.get(name), found[name][number].as_py(), found[name].type), (name, row)


def test_numbers_that_no_double_holds_are_kept_digit_by_digit(tmp_path):
    numbers = ["0.1234567890123456789", "12345678901234567890", "1e999", "-0.0", "7", "1.50"]
    lines = [f'{{"text": "t", "n": {number}}}' for number in numbers]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    assert scored(tmp_path)["n"].to_pylist() == [
        "0.1234567890123456789",
        "12345678901234567890",
        "1e999",
        "-0.0",
        "7",
        "1.5",
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines[3:]))
    found = scored(tmp_path)["n"]
    assert (found.type, found.to_pylist()) == (pa.float64(), [-0.0, 7.0, 1.5])
    assert math.copysign(1, found[0].as_py()) == -1


def test_columns_that_differ_between_files_have_a_type_that_holds_the_values_of_all(tmp_path):
    later = pa.timestamp("us")
    differing = {
        "decimal": (pa.array([2**64 - 1], pa.uint64()), pa.array([-1], pa.int64())),
        "double": (pa.array([2**53]), pa.array([0.5])),
        "text": (pa.array(["a"]).dictionary_encode(), pa.array(["b"], pa.string_view())),
        "zone": (pa.array([1], pa.timestamp("us", "Europe/Berlin")), pa.array([2], pa.timestamp("ns", "UTC"))),
        "nested": (pa.array([[{"a": 1}]]), pa.array([[{"b": "x"}]])),
        "view": (pa.array([[1, 2]], pa.list_view(pa.int64())), pa.array([[3, 4]], pa.list_(pa.int8(), 2))),
        "uuid": (pa.array([b"u" * 16], pa.uuid()), pa.array([b"v" * 16], pa.binary(16))),
        "span": (pa.array([datetime.datetime(1700, 1, 1)], later), pa.array([1], pa.timestamp("ns"))),
        "absent": (pa.array([[0.5]]), None),
    }
    for number, name in enumerate(("a", "b")):
        columns = {column: pair[number] for column, pair in differing.items() if pair[number] is not None}
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    found = scored(tmp_path)
    assert found[READ_ERROR].null_count == 2
    for column, pair in differing.items():
        for row, wanted in enumerate(pair):
            value = found[column][row].as_py()
            if column == "nested":
                assert [{k: v for k, v in item.items() if v is not None} for item in value] == wanted[0].as_py()
            elif column == "uuid":
                assert value == wanted.cast(pa.binary(16))[0].as_py()
            elif column == "decimal":
                assert int(value) == wanted[0].as_py()
            else:
                assert value == (wanted[0].as_py() if wanted is not None else None), column


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (pa.array([2**53 + 1]), pa.array([3.0])),
        (pa.array([datetime.datetime(9999, 1, 1)], pa.timestamp("us")), pa.array([1], pa.timestamp("ns"))),
        (pa.array(["1"]), pa.array([1])),
        (pa.array([1], pa.timestamp("us")), pa.array([1], pa.timestamp("us", "UTC"))),
        (pa.array([[{"n": "x"}]]), pa.array([[{"n": True}]])),
    ],
)
def test_values_that_no_type_holds_are_refused_by_column_and_files_and_left_out_they_cost_nothing(tmp_path, a, b):
    for name, column in (("a", a), ("b", b)):
        pq.write_table(pa.table({"text": ["x"], "c": column}), tmp_path / f"{name}.parquet")
    with pytest.raises(ValueError, match=r"column 'c' is .* in '.*a\.parquet' and .* in '.*b\.parquet'.*--columns"):
        scored(tmp_path)
    found = scored(tmp_path, read={"text": "text"}, keep=[])
    assert found["text"].to_pylist() == ["x", "x"]
