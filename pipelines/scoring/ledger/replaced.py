"""What a start could not use of an output: it is moved to `OUTPUT.replaced`, and deleted when that start is done."""

from collections.abc import Sequence

import pyarrow.fs as pafs

from pipelines.scoring.ledger.parts import PART_PREFIX
from pipelines.scoring.ledger.records import FORMER_FILES, INPUTS_FILE, RUN_FILE, SUCCESS_FILE
from pipelines.scoring.storage import Place, names_in

REPLACED_SUFFIX = ".replaced"


def set_aside(output: Place, names: Sequence[str]) -> None:
    """Move files out of an output to where `delete_replaced` finds them."""
    place = output.beside(REPLACED_SUFFIX)
    if names:
        output.filesystem.create_dir(place.path, recursive=True)
    for name in names:
        output.filesystem.move(output.child(name).path, place.child(name).path)


def delete_replaced(output: Place) -> None:
    """Delete what was set aside. What else somebody keeps in the folder stays, and the folder with it."""
    place = output.beside(REPLACED_SUFFIX)
    for name in filter(is_ours, names_in(place)):
        output.filesystem.delete_file(place.child(name).path)
    selector = pafs.FileSelector(place.path, allow_not_found=True)
    is_there = output.filesystem.get_file_info(place.path).type == pafs.FileType.Directory
    if is_there and not output.filesystem.get_file_info(selector):
        output.filesystem.delete_dir(place.path)


def is_ours(name: str) -> bool:
    """Whether a job wrote a file of this name into its output."""
    if name.startswith("."):
        half_written = name.startswith((f".{PART_PREFIX}", "..bigbird-", "._")) and name.endswith(".tmp")
        return half_written or name in (RUN_FILE, INPUTS_FILE)
    part = name.startswith(PART_PREFIX) and name.endswith(".parquet")
    return part or name == SUCCESS_FILE or name in FORMER_FILES
