"""Is it the storage or the data? A file that cannot be read stops a job; one with damaged rows costs those rows.

The kinds of exceptions do not tell: pyarrow raises OSError for a page that does not decompress as for a lost
connection. So the bytes themselves are read once more: where they can be had, and are those of the listing, it is the
data.
"""

import pyarrow.fs as pafs

from pipelines.scoring.inputs.units import InputFile

_CHUNK_BYTES = 4 << 20


class UnreadableInputError(OSError):
    """An input that is not there, or that the storage does not give."""


class ChangedInputError(RuntimeError):
    """An input that was written to while a job reads it."""


def require_unchanged(file: InputFile, filesystem: pafs.FileSystem) -> None:
    """Raises UnreadableInputError for a file that is gone, ChangedInputError for one that is not the listed one."""
    try:
        info = filesystem.get_file_info(file.path)
    except OSError as error:
        raise UnreadableInputError(f"{file.name}: {error}") from None
    if info.type != pafs.FileType.File:
        raise UnreadableInputError(f"{file.name} is not there any more")
    if (info.size, info.mtime_ns or 0) != (file.size, file.mtime_ns):
        raise ChangedInputError(f"{file.name} changed while the job reads it; the next start does its rows again")


def require_readable(file: InputFile, filesystem: pafs.FileSystem) -> None:
    """Raises UnreadableInputError where the bytes of a file cannot be had, whatever they mean."""
    try:
        with filesystem.open_input_stream(file.path, compression=None) as stream:
            while stream.read(_CHUNK_BYTES):
                pass
    except OSError as error:
        raise UnreadableInputError(f"{file.name}: {error}") from None
