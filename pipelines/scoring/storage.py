"""Where files lie: local paths and the remote filesystems of pyarrow, and files that appear whole or not at all.

Does not know what is in the files.
"""

import contextlib
import os
import re
import uuid
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from bigbird.errors import InputError

# One put makes an object appear whole; everywhere else a file is written under another name and renamed.
_OBJECT_STORES = {"s3", "gcs", "abfs"}
_ODD = re.compile(r"[ *?\[\]{}|<>#^\\\"`]")


@dataclass(frozen=True)
class Place:
    """A path on a filesystem. `name` is how a person (and `source_file`) writes it: absolute path or URI."""

    filesystem: pafs.FileSystem
    path: str
    name: str

    def name_of(self, path: str) -> str:
        """The name of another path on the same filesystem."""
        return path if "://" not in self.name else f"{self.name.partition('://')[0]}://{path.lstrip('/')}"

    def child(self, name: str) -> "Place":
        path = f"{self.path.rstrip('/')}/{name}"
        return Place(self.filesystem, path, self.name_of(path))

    @property
    def folder(self) -> "Place":
        """What it lies in."""
        return Place(self.filesystem, self.path.rpartition("/")[0] or "/", self.name.rpartition("/")[0] or "/")

    def beside(self, suffix: str) -> "Place":
        """What has this name with a suffix, in the same folder. Beside a bucket is nothing: then it is inside."""
        if self.filesystem.type_name in _OBJECT_STORES and "/" not in self.path.strip("/"):
            return self.child(suffix.lstrip("."))
        path = f"{self.path.rstrip('/')}{suffix}"
        return Place(self.filesystem, path, self.name_of(path))


def locate(path: str) -> Place:
    """Filesystem and path of a local path or a URI (`s3://bucket/key`, `gs://`, `hdfs://`, `file://`).

    Options of the filesystem may stand in the query (`s3://b/k?endpoint_override=...&scheme=http`); they are not
    part of the name. Raises InputError for an empty path and for a URI pyarrow cannot open.
    """
    if not path:
        raise InputError("a path is empty")
    if "://" not in path:
        absolute = os.path.abspath(path)
        return Place(pafs.LocalFileSystem(), absolute, absolute)
    # What a URI has no room for may stand in a name or glob; of `?`, only `?key=` starts a query.
    plain, query = re.fullmatch(r"(.*?)(\?\w+=.*)?", path, re.DOTALL).groups("")  # type: ignore[union-attr]
    try:
        filesystem, inner = pafs.FileSystem.from_uri(_ODD.sub(lambda odd: quote(odd[0]), plain) + query)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise InputError(f"{path!r} cannot be opened: {error}") from error
    for character in set(_ODD.findall(plain)):
        inner = inner.replace(quote(character), character)
    scheme = urlsplit(path).scheme
    name = inner if scheme == "file" else f"{scheme}://{inner.lstrip('/')}"
    return Place(filesystem, inner.rstrip("/"), name.rstrip("/"))


def write_whole(place: Place, content: bytes | pa.Buffer) -> None:
    """Write a file that is seen whole or not at all, replacing one of the same name.

    On object stores one put; elsewhere a temporary name beside it (starting with a dot, which readers of
    datasets skip) and a rename, on local disks once the content is on the disk. Whatever fails, as a full disk
    does, leaves no temporary file.
    """
    filesystem = place.filesystem
    if filesystem.type_name in _OBJECT_STORES:
        stream = filesystem.open_output_stream(place.path)
        # Not a `with`: leaving one by an exception would close the stream, and closing completes a half-written put.
        stream.write(content)
        stream.close()
        return
    folder, _, name = place.path.rpartition("/")
    temporary = f"{folder}/.{name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        if filesystem.type_name == "local":
            _write_to_disk(temporary, content)
            os.replace(temporary, place.path)
            return
        with filesystem.open_output_stream(temporary) as stream:
            stream.write(content)
        if filesystem.get_file_info(place.path).is_file:
            filesystem.delete_file(place.path)  # HDFS renames onto nothing; rows lost in between are scored again
        filesystem.move(temporary, place.path)
    except OSError as error:
        with contextlib.suppress(OSError):
            filesystem.delete_file(temporary)
        raise OSError(error.errno, error.strerror or str(error), place.name) from None


def _write_to_disk(path: str, content: bytes | pa.Buffer) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def read_whole(place: Place) -> bytes | None:
    """The content of a file, or None where there is none."""
    try:
        with place.filesystem.open_input_stream(place.path, compression=None) as stream:
            return bytes(stream.readall())
    except (FileNotFoundError, NotADirectoryError):
        return None


def names_in(place: Place) -> list[str]:
    """Names of the files directly in a folder, sorted; empty where the folder does not exist."""
    selector = pafs.FileSelector(place.path, allow_not_found=True)
    return sorted(info.base_name for info in place.filesystem.get_file_info(selector) if info.is_file)


def make_writable(place: Place, what: str = "output") -> bool:
    """Create a folder and prove that it can be written to; whether it was not there. Raises InputError naming it."""
    probe = place.child(f".probe-{uuid.uuid4().hex[:8]}")
    try:
        created = place.filesystem.get_file_info(place.path).type == pafs.FileType.NotFound
        place.filesystem.create_dir(place.path, recursive=True)
        write_whole(probe, b"")
        place.filesystem.delete_file(probe.path)
        return bool(created)
    except (OSError, ValueError) as error:  # of a name that the filesystem does not take, as of a hub
        raise InputError(f"{what} {place.name!r} cannot be written: {error}") from error
