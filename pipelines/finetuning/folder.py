"""A folder on this machine for files that belong to a place that may be elsewhere."""

import tempfile
from pathlib import Path

import pyarrow.fs as pafs

from pipelines.scoring.storage import Place


class Folder:
    """`path`: the place itself where that is on this machine, else a temporary folder, of which `save` copies all files
    there."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._temporary = None if place.filesystem.type_name == "local" else tempfile.TemporaryDirectory()
        self.path = Path(self._temporary.name if self._temporary else place.path)

    def save(self) -> None:
        if self._temporary:
            pafs.copy_files(self._temporary.name, self._place.path, pafs.LocalFileSystem(), self._place.filesystem)
