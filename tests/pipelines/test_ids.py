"""Ids of an input over a cluster's tasks: the same answers as a look at all of them at once."""

import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ray_session import ray_session

from bigbird.errors import InputError
from pipelines.scoring import ids
from pipelines.scoring.ids import check_ids
from pipelines.scoring.inputs.listing import list_inputs

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def session():
    with ray_session(__name__):
        yield


@pytest.mark.parametrize("kind", [str, int])
def test_a_repeated_or_missing_id_is_named_wherever_it_stands_in_tasks_and_parts(kind, monkeypatch, tmp_path):
    monkeypatch.setattr(ids, "_ROWS_A_TASK", 40)
    monkeypatch.setattr(ids, "_ROWS_A_PART", 50)
    draw = random.Random(0)
    values = [kind(number) for number in draw.sample(range(10**6), 300)]

    def check(changed):
        for number in range(3):
            column = pa.array(changed[100 * number : 100 * (number + 1)])
            pq.write_table(pa.table({"id": column, "text": ["x"] * 100}), tmp_path / f"{number}.parquet", 20)
        check_ids(list_inputs([str(tmp_path)]), "id")

    check(values)
    first, second = 17, 261
    twice = [*values[:second], values[first], *values[second + 1 :]]
    places = rf"row 17 of '{tmp_path}/0.parquet' and row 61 of '{tmp_path}/2.parquet'"
    with pytest.raises(InputError, match=f"id {values[first]!r} occurs twice: {places}"):
        check(twice)
    with pytest.raises(InputError, match=r"id .* occurs twice: row 0 of .*0.parquet' and row 1 of .*0.parquet'"):
        check([values[0]] * 300)
    with pytest.raises(InputError, match=r"id column 'id' is null in row 5 of .*1.parquet'"):
        check([*values[:105], None, *values[106:]])
