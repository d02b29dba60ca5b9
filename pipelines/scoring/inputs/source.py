"""Ray Data's source of a job's rows: one read task and one block a unit."""

import time
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.fs as pafs
import ray
from ray.data import DataContext, Datasource
from ray.data.block import BlockMetadata
from ray.data.datasource import ReadTask

from pipelines.scoring.inputs.reading import read_unit
from pipelines.scoring.inputs.units import REPLACES, Unit
from pipelines.scoring.inputs.unreadable import UnreadableInputError

_PAUSES_S = (1.0, 4.0)


class UnitSource(Datasource):
    """Reads `units` with the columns of `schema`; `unit_bytes` is what Ray expects a unit to hold.

    prefix: of the names of the origin columns.
    """

    def __init__(
        self, units: Sequence[Unit], filesystem: pafs.FileSystem, schema: pa.Schema, unit_bytes: int, prefix: str = ""
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._units = units
        self._filesystem = filesystem
        self._schema = schema
        self._unit_bytes = unit_bytes
        self._prefix = prefix

    def get_name(self) -> str:
        return "Rows"

    def estimate_inmemory_data_size(self) -> int:
        return len(self._units) * self._unit_bytes

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: DataContext | None = None
    ) -> list[ReadTask]:
        return [self._task(unit) for unit in self._units]

    def _task(self, unit: Unit) -> ReadTask:
        filesystem, schema, unit, prefix = self._filesystem, self._schema, unit.without_groups, self._prefix

        def read() -> list[pa.Table]:
            table = _read_patiently(unit, filesystem, schema, prefix)
            return [table.append_column(REPLACES, pa.array([unit.replaces] * table.num_rows, pa.string()))]

        size = BlockMetadata(num_rows=unit.rows, size_bytes=self._unit_bytes, input_files=None, exec_stats=None)
        return ReadTask(read, size)


def _read_patiently(unit: Unit, filesystem: pafs.FileSystem, schema: pa.Schema, prefix: str) -> pa.Table:
    """The rows of a unit, tried again where the storage fails. Raises UnreadableInputError that names the node."""
    for pause_s in (*_PAUSES_S, None):
        try:
            return read_unit(unit, filesystem, schema, prefix)
        except UnreadableInputError as error:
            if pause_s is None:
                node = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
                raise UnreadableInputError(f"{error} (read on node {node}, {len(_PAUSES_S) + 1} times)") from None
            time.sleep(pause_s)
    raise AssertionError
