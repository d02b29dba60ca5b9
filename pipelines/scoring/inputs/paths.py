"""Which files an input is: of files, folders, globs and URIs, on any filesystem of pyarrow.

A path that exists is that path, whatever is in its name; else `*`, `?`, `[...]` match within a name and `**` crosses
folders. A folder is read with all that is below it, but for names that begin with `.` or `_`. What is not read is
counted and named.
"""

import fnmatch
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs as pafs

from bigbird.errors import InputError
from pipelines.command_line import counted
from pipelines.scoring.inputs.units import JSON_SUFFIXES, PARQUET_SUFFIXES
from pipelines.scoring.storage import Place, locate

Partition = tuple[tuple[str, str], ...]

# Tables whose folder holds more files than the table has, and what reads those it has.
_TABLES = {"_delta_log": ("Delta", "read_delta"), ".hoodie": ("Hudi", "read_hudi")}
_ICEBERG = re.compile(r"/metadata/[^/]*\.metadata\.json$")
_SIDE_FILES = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}  # of Hugging Face datasets
_PARQUET_MAGIC = b"PAR1"
_GLOB = "*?["


@dataclass
class Found:
    """The files of an input, by path, and names of files that are not read."""

    filesystem: pafs.FileSystem
    files: dict[str, tuple[Place, pafs.FileInfo, Partition]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)


def find_files(paths: Sequence[str]) -> Found:
    """Raises InputError: a path that cannot be read or does not exist, a link to nothing, no file at all, files on
    several filesystems, a table of a format with a reader of its own."""
    found: Found | None = None
    for path in paths:
        place = locate(path)
        found = found or Found(place.filesystem)
        if not found.filesystem.equals(place.filesystem):
            raise InputError(f"input {path!r} is on another filesystem than {paths[0]!r}; one job reads from one")
        for info, root in _files_of(place, path, found.skipped):
            if info.path not in found.files:
                name = place.name_of(info.path)
                partition = _hive_partition(info.path[len(root) :])
                found.files[info.path] = (Place(place.filesystem, info.path, name), info, partition)
    if found and found.filesystem.type_name == "local":
        _without_links(found)
    if found is None or not found.files:
        unread = said_of(found.skipped) if found else ""
        raise InputError(f"no Parquet or JSON lines file in {', '.join(map(repr, paths))}{unread}")
    return found


def said_of(skipped: Sequence[str]) -> str:
    """How many files are not read, and the first of them; nothing where there is none."""
    some = ", ".join(map(repr, sorted(skipped)[:3]))
    return (
        f"; not read: {counted(len(skipped), 'file')}, {some}{', ...' if len(skipped) > 3 else ''}" if skipped else ""
    )


def holds(given: str, path: str) -> bool:
    """Whether a file at `path`, of the same filesystem, would belong to an input."""
    place = locate(given)
    if _exists(place, given) or not _is_glob(place.path):
        return path == place.path or path.startswith(f"{place.path.rstrip('/')}/")
    return _matches(path.split("/"), place.path.split("/"))


def _files_of(place: Place, given: str, skipped: list[str]) -> Iterator[tuple[pafs.FileInfo, str]]:
    """Files of a path, each with the folder below which Hive partitions count."""
    filesystem, path = place.filesystem, place.path
    info = _exists(place, given)
    if info is None and not _is_glob(path):
        raise InputError(f"input {given!r} does not exist")
    if info is not None and info.is_file:
        if not _is_known(place, info):
            raise InputError(f"input {given!r} is neither Parquet nor JSON lines by its name")
        yield info, path.rpartition("/")[0]
        return
    root, pattern = path.rstrip("/"), None
    if info is None:
        root, pattern = path[: min(path.index(c) for c in _GLOB if c in path)].rpartition("/")[0], path.split("/")
    below = _listed(filesystem, pafs.FileSelector(root or ".", recursive=True), given, skipped)
    if pattern is not None:
        folder = pafs.FileType.Directory
        below = [info for info in below if info.type != folder and _matches(info.path.split("/"), pattern)]
        if not below:
            raise InputError(f"input {given!r} matches no file")
    has_parquet = any(info.path.lower().endswith(PARQUET_SUFFIXES) for info in below)
    for info in below:
        if pattern is None:
            _refuse_table(info, given)
        if info.type == pafs.FileType.Directory:
            continue
        name = info.base_name
        hidden = any(part.startswith((".", "_")) for part in info.path[len(root) :].split("/"))
        # JSON beside Parquet describes it.
        side = name in _SIDE_FILES or (has_parquet and name.lower().endswith(".json"))
        if hidden or side or info.type == pafs.FileType.Unknown or not _is_known(place, info):
            skipped.append(place.name_of(info.path))
        elif info.is_file:
            yield info, root
        else:
            raise InputError(f"input {place.name_of(info.path)!r} is not there: a link leads to nothing")


def _exists(place: Place, given: str) -> pafs.FileInfo | None:
    try:
        info = place.filesystem.get_file_info(place.path)
    except (OSError, pa.ArrowException) as error:
        if _is_glob(place.path):
            return None
        raise InputError(f"input {given!r} cannot be read: {error}") from error
    return None if info.type == pafs.FileType.NotFound else info


def _listed(
    filesystem: pafs.FileSystem, selector: pafs.FileSelector, given: str, skipped: list[str]
) -> list[pafs.FileInfo]:
    """What is below a folder, by path; a folder that links lead to again, as in a loop, once."""
    try:
        infos = filesystem.get_file_info(selector)
    except OSError as error:
        raise InputError(f"input {given!r} cannot be read: {error}") from error
    named: dict[str, pafs.FileInfo] = {}
    for info in infos:
        try:
            named[str(info.path)] = info
        except UnicodeDecodeError as error:
            skipped.append(error.object.decode(errors="backslashreplace"))
    if filesystem.type_name == "local":
        named |= {path: pafs.FileInfo(path, pafs.FileType.NotFound) for path in _dangling(selector.base_dir)}
        named = _without_repeated_folders(named, skipped)
    return [named[path] for path in sorted(named)]


def _dangling(folder: str) -> Iterator[str]:
    """Links to nothing below a folder, which Arrow does not list."""
    for here, _, names in os.walk(folder):
        for path in (os.path.join(here, name) for name in names):
            if os.path.islink(path) and not os.path.exists(path):
                yield path


def _without_repeated_folders(named: dict[str, pafs.FileInfo], skipped: list[str]) -> dict[str, pafs.FileInfo]:
    kept = {}
    real: dict[str, str] = {}
    first: dict[str, str] = {}
    for path in sorted(named, key=lambda path: (path.count("/"), path)):
        folder = path.rpartition("/")[0]
        if folder not in real:
            real[folder] = os.path.realpath(folder)
        if first.setdefault(real[folder], folder) == folder:
            kept[path] = named[path]
        elif named[path].is_file:
            skipped.append(path)
    return kept


def _without_links(found: Found) -> None:
    """Keeps one of the names that lead to the same file: one with a known suffix, and one that is no link, if any is.
    So are the files of the hub's cache, which has each under a name for its content and links to that."""
    first: dict[str, str] = {}
    known = PARQUET_SUFFIXES + JSON_SUFFIXES
    for path in sorted(found.files, key=lambda path: (not path.lower().endswith(known), os.path.islink(path), path)):
        if first.setdefault(os.path.realpath(path), path) != path:
            found.skipped.append(found.files.pop(path)[0].name)


def _is_glob(path: str) -> bool:
    return any(character in path for character in _GLOB)


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Shell matching by name: `*` stays within one, a name `**` is any number of folders.

    A pattern that matches a folder matches all that is in it.
    """
    if not pattern:
        return True
    if pattern[0] == "**":
        return any(_matches(parts[skipped:], pattern[1:]) for skipped in range(len(parts)))
    return bool(parts) and fnmatch.fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _refuse_table(info: pafs.FileInfo, given: str) -> None:
    """Raises InputError for a part of a table that other files than its Parquet files describe."""
    kind, reader = _TABLES.get(info.base_name, ("", ""))
    if _ICEBERG.search(info.path):
        kind, reader = "Iceberg", "read_iceberg"
    if kind:
        raise InputError(
            f"input {given!r} holds a table of {kind}, whose folder has files of deleted rows as well: read it with "
            f"ray.data.{reader} and pipelines.score.score, or name Parquet files by a glob"
        )


def _is_known(place: Place, info: pafs.FileInfo) -> bool:
    name = info.base_name.lower()
    return bool(name.endswith(PARQUET_SUFFIXES + JSON_SUFFIXES)) or ("." not in name and _is_parquet(place, info))


def _is_parquet(place: Place, info: pafs.FileInfo) -> bool:
    """Whether a file without a known suffix begins as Parquet does; Hive writes such."""
    if not info.is_file or info.size < 2 * len(_PARQUET_MAGIC):
        return False
    with place.filesystem.open_input_file(info.path) as stream:
        return bytes(stream.read(len(_PARQUET_MAGIC))) == _PARQUET_MAGIC


def _hive_partition(below: str) -> Partition:
    keys = (part.partition("=") for part in below.split("/")[:-1] if "=" in part)
    return tuple((unquote(key), unquote(value)) for key, _, value in keys)
