"""Text on disk becomes a Parquet corpus: one row a document, columns `id`, `path`, `kind`, `text`.

`--python-docs` needs no download: it reads the standard library of the running interpreter (kind "source")
and the topics of `pydoc_data` (kind "topic"). `--files` does the same for any folder of UTF-8 text ("file").

Knows nothing of tokens, models or Ray. Documents keep their text exactly, line ends included; a file that
cannot be read as text is left out and named, never repaired.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import sys
import sysconfig
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from bigbird.errors import InputError
from pipelines.command_line import DONE, REFUSED, Parser, say

PROG = "python -m pipelines.corpus"

SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "path", "kind", "text")])

INSTALLED_PACKAGES = frozenset({"site-packages", "dist-packages"})
TEST_PACKAGES = frozenset({"test", "tests", "idle_test"})

# A row group is what one reader takes apart from the rest: a few megabytes each keep several readers busy.
ROW_GROUP_CHARS = 4_000_000


@dataclass(frozen=True, kw_only=True)
class Document:
    """One row of the corpus. `id` is unique in a corpus and the same on every run: the kind and the path."""

    kind: str
    path: str
    text: str

    @property
    def id(self) -> str:
        return f"{self.kind}:{self.path}"


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A file that is not in the corpus, and why."""

    path: str
    reason: str


@dataclass(kw_only=True)
class CorpusSummary:
    """What `write_corpus` wrote: documents by kind, characters, and the files left out."""

    num_documents: Counter[str] = field(default_factory=Counter)
    num_chars: int = 0
    skipped: list[Skipped] = field(default_factory=list)


def python_documents(*, include_tests: bool = False) -> Iterator[Document | Skipped]:
    """The running interpreter's documentation: its library sources in path order, then its topics by name.

    Paths are relative to the standard library. Installed packages are no part of it. The library's own tests
    (more than half of its text, much of it tables of odd input) come only with `include_tests`. The module
    that holds the topics is not repeated as a source file: each text is in the corpus once.
    """
    root = Path(sysconfig.get_path("stdlib"))
    left_out = INSTALLED_PACKAGES if include_tests else INSTALLED_PACKAGES | TEST_PACKAGES
    paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.py"))
    for path in paths:
        if left_out.isdisjoint(path.split("/")[:-1]) and path != "pydoc_data/topics.py":
            yield _read(root / path, kind="source", path=path)

    from pydoc_data.topics import topics  # 700 kB of text: only for whoever asks

    for name in sorted(topics):
        yield Document(kind="topic", path=f"pydoc_data/topics/{name}", text=topics[name])


def file_documents(pattern: str) -> Iterator[Document | Skipped]:
    """Every file that `pattern` matches (`**` crosses folders), in path order, as UTF-8 text.

    A path that exists is that path, whatever is in its name. `**` follows links, and reads a folder once however many
    lead to it. Raises InputError where the pattern matches no file.
    """
    if os.path.isfile(pattern):
        found: list[str | Skipped] = [pattern]
    else:
        anchor, parts = Path(pattern).anchor, [part for part in Path(pattern).parts if part != Path(pattern).anchor]
        found = sorted(_matching(anchor, parts, set()), key=lambda one: one.path if isinstance(one, Skipped) else one)
    if not any(isinstance(one, str) for one in found):
        raise InputError(f"--files: expected a pattern that matches at least one file, found none for {pattern!r}")
    for one in found:
        yield one if isinstance(one, Skipped) else _read(Path(one), kind="file", path=Path(one).as_posix())


def _matching(folder: str, pattern: Sequence[str], seen: set[str]) -> Iterator[str | Skipped]:
    """Files below `folder`. `seen`: the folders, without links, that a `**` has come to."""
    first, rest = pattern[0], pattern[1:]
    if not glob.has_magic(first):
        path = os.path.join(folder, first)
        if rest and os.path.isdir(path):
            yield from _matching(path, rest, set())
        elif not rest and os.path.isfile(path):
            yield path
        return
    if first == "**":
        real = os.path.realpath(folder or ".")
        if real in seen:
            return
        seen.add(real)
        if rest:
            yield from _matching(folder, rest, set())
    try:
        names = sorted(os.listdir(folder or "."), key=lambda name: (os.path.islink(os.path.join(folder, name)), name))
    except OSError as error:
        yield Skipped(path=folder, reason=str(error))
        return
    for name in names:
        path = os.path.join(folder, name)
        if name.startswith(".") and not first.startswith("."):
            continue
        if first == "**" and os.path.isdir(path):
            yield from _matching(path, pattern, seen)
        elif fnmatch.fnmatchcase(name, first):
            if rest and os.path.isdir(path):
                yield from _matching(path, rest, set())
            elif not rest and os.path.isfile(path):
                yield path


def _read(file: Path, *, kind: str, path: str) -> Document | Skipped:
    try:
        content = file.read_bytes()
        # A source file may declare its encoding; other text has nowhere to say so and is taken as UTF-8.
        encoding = tokenize.detect_encoding(BytesIO(content).readline)[0] if kind == "source" else "utf-8-sig"
        path.encode()
        return Document(kind=kind, path=path, text=content.decode(encoding))
    except (UnicodeError, SyntaxError, OSError) as error:  # SyntaxError: an unknown declared encoding
        return Skipped(path=path.encode(errors="backslashreplace").decode(), reason=str(error))


def write_corpus(documents: Iterable[Document | Skipped], output: Path) -> CorpusSummary:
    """Writes `documents` to the Parquet file `output`, a few megabytes in memory at a time, and counts them.

    The file appears when it is complete: a run that fails leaves what was there before.
    """
    summary = CorpusSummary()
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = output.with_name(f".{output.name}.unfinished")
    try:
        with pq.ParquetWriter(unfinished, SCHEMA, compression="zstd") as writer:
            for group in _row_groups(documents, summary):
                columns = {name: [getattr(document, name) for document in group] for name in SCHEMA.names}
                writer.write_table(pa.table(columns, schema=SCHEMA))
        unfinished.replace(output)
    finally:
        unfinished.unlink(missing_ok=True)
    return summary


def _row_groups(documents: Iterable[Document | Skipped], summary: CorpusSummary) -> Iterator[list[Document]]:
    group: list[Document] = []
    num_chars = 0
    for document in documents:
        if isinstance(document, Skipped):
            summary.skipped.append(document)
            continue
        summary.num_documents[document.kind] += 1
        summary.num_chars += len(document.text)
        group.append(document)
        num_chars += len(document.text)
        if num_chars >= ROW_GROUP_CHARS:
            yield group
            group, num_chars = [], 0
    if group:
        yield group


def main(argv: Sequence[str] | None = None) -> int:
    """Command line. Exit status 2 where the request cannot be met."""
    parser = Parser(PROG, "Build a Parquet corpus (columns id, path, kind, text) from text on this machine.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--python-docs",
        metavar="OUT.parquet",
        help="every source file of the running Python's standard library and every pydoc topic",
    )
    what.add_argument(
        "--files",
        nargs=2,
        metavar=("GLOB", "OUT.parquet"),
        help="every file the pattern matches, as UTF-8; quote the pattern, '**' crosses folders",
    )
    parser.add_argument(
        "--include-tests",
        action="store_true",
        help="with --python-docs: the standard library's own test packages too",
    )
    args = parser.parse_args(argv)
    if args.include_tests and args.files:
        parser.error("--include-tests goes with --python-docs: --files takes what its pattern matches")

    if args.files:
        documents, output = file_documents(args.files[0]), Path(args.files[1])
    else:
        documents, output = python_documents(include_tests=args.include_tests), Path(args.python_docs)
    try:
        summary = write_corpus(documents, output)
    except (InputError, OSError) as error:
        say(PROG, error)
        return REFUSED

    for skipped in summary.skipped:
        print(f"skipped {skipped.path}: {skipped.reason}", file=sys.stderr)
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(summary.num_documents.items()))
    print(
        f"{summary.num_documents.total():,} documents ({kinds}), {summary.num_chars:,} characters, "
        f"{len(summary.skipped):,} files skipped -> {output}"
    )
    return DONE


if __name__ == "__main__":
    sys.exit(main())
