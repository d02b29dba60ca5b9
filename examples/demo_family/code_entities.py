"""Exact labels for Python source: which names denote a class, function, parameter, module or exception.

`entities(text)` parses the source with `ast` and resolves every plain name the way the language does, by lexical
scope, so a use is labelled like the definition it refers to, however far away that is:

- CLASS, FUNCTION: the name in `class`/`def`, uses of it, and the built-in classes and functions.
- EXCEPTION: the same for classes that derive from BaseException, as far as the sources tell.
- PARAMETER: a parameter in its signature and wherever the body reads or rebinds it. The receiver of a method (its
  first parameter: `self`, `cls`) is left out: it would be every third entity and say nothing.
- MODULE: the dotted name in `import`, and every use of the name it binds.

Names imported with `from module import name` get their kind from an `Index` over the corpus; where that does not know
the module (written in C, or not in the corpus) they stay unlabelled. Not labelled: attributes (`ast` cannot know their
object), keyword names in calls, plain variables, names bound to two of the kinds, and anything inside an f-string
(its positions are not exact before Python 3.12). Nothing is imported or run.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterable
from dataclasses import dataclass
from types import BuiltinFunctionType

from examples.demo_family.corpus_split import parse
from examples.demo_family.scopes import Binding, Reference, Scope, read_scopes

LABELS = ("O", "CLASS", "FUNCTION", "PARAMETER", "MODULE", "EXCEPTION")


@dataclass(frozen=True, order=True)
class Entity:
    """Characters [start, end) of the text, and one of `LABELS` other than "O"."""

    start: int
    end: int
    label: str


BUILTIN_KINDS = {
    name: "FUNCTION" if not isinstance(value, type) else "EXCEPTION" if issubclass(value, BaseException) else "CLASS"
    for name, value in vars(builtins).items()
    if isinstance(value, type | BuiltinFunctionType)
}


class Index:
    """What the top level of every module in a corpus defines; answers what an imported name denotes."""

    def __init__(self, sources: Iterable[tuple[str, str]]) -> None:
        """sources: (path, text); `email/message.py` is the module `email.message`. Unparsable texts are left out."""
        self._modules: dict[str, Scope] = {}
        for path, text in sources:
            try:
                self._modules[module_name(path)] = read_scopes(parse(text), module_name(path), path)[0]
            except (SyntaxError, ValueError, RecursionError):
                continue
        self._known: dict[tuple[str, str], str | None] = {}

    def kind(self, module: str, name: str) -> str | None:
        """The label of `name` in `module`, or None where the corpus does not tell."""
        key = (module, name)
        if key not in self._known:
            self._known[key] = None  # a cycle of imports tells nothing
            self._known[key] = self._look_up(module, name)
        return self._known[key]

    def _look_up(self, module: str, name: str) -> str | None:
        scope = self._modules.get(module)
        if scope is not None and name in scope.bindings:
            return kind_of(scope.bindings[name], self)
        return "MODULE" if f"{module}.{name}" in self._modules else None


def module_name(path: str) -> str:
    """`email/mime/base.py` -> `email.mime.base`; a package's `__init__.py` is the package."""
    parts = path.removesuffix(".py").split("/")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def kind_of(bindings: list[Binding], index: Index | None) -> str | None:
    """The one label all entity bindings of a name agree on; plain assignments beside them do not count."""
    kinds = set()
    for binding in bindings:
        if binding.kind == "import":
            kinds.add(index.kind(binding.module, binding.name) if index else None)
        elif binding.kind == "CLASS":
            kinds.add(
                "EXCEPTION" if any(_is_exception(base, binding.scope, index) for base in binding.bases) else "CLASS"
            )
        elif binding.kind != "variable":
            kinds.add(binding.kind)
    kinds.discard(None)
    return kinds.pop() if len(kinds) == 1 else None


def _is_exception(base: ast.expr, scope: Scope, index: Index | None) -> bool:
    if isinstance(base, ast.Name):
        bindings = scope.look_up(base.id)
        if bindings is None:
            return BUILTIN_KINDS.get(base.id) == "EXCEPTION"
        own = [b for b in bindings if not (b.kind == "CLASS" and any(part is base for part in b.bases))]
        return kind_of(own, index) == "EXCEPTION"
    if isinstance(base, ast.Attribute) and isinstance(base.value, ast.Name) and index:
        modules = [b.module for b in scope.look_up(base.value.id) or [] if b.kind == "MODULE"]
        return any(index.kind(module, base.attr) == "EXCEPTION" for module in modules)
    return False


def entities(text: str, path: str = "", index: Index | None = None) -> list[Entity]:
    """The entities of one source file, in order, not overlapping. Raises SyntaxError where `ast.parse` does."""
    tree = parse(text)
    _, references = read_scopes(tree, module_name(path), path)
    places = _Places(text)
    found = set()
    for reference in references:
        label = _label(reference, index)
        span = places.span(reference)
        if label and span:
            found.add(Entity(*span, label))
    return sorted(found)


def _label(reference: Reference, index: Index | None) -> str | None:
    if reference.label:
        return reference.label
    bindings = reference.scope.look_up(reference.name)
    return BUILTIN_KINDS.get(reference.name) if bindings is None else kind_of(bindings, index)


class _Places:
    """Turns lines and UTF-8 columns, as `ast` counts them, into characters of the text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._starts = [0, *(match.end() for match in re.finditer(r"\r\n|\r|\n", text))]
        self._ascii = text.isascii()

    def _offset(self, line: int, column: int) -> int:
        start = self._starts[line - 1]
        if self._ascii:
            return start + column
        end = self._starts[line] if line < len(self._starts) else len(self._text)
        return start + len(
            self._text[start:end].encode("utf-8", "surrogatepass")[:column].decode("utf-8", "surrogatepass")
        )

    def span(self, reference: Reference) -> tuple[int, int] | None:
        """The characters of the name, or None where the text there is something else."""
        node = reference.node
        start = self._offset(node.lineno, node.col_offset)
        if reference.before:  # the name stands somewhere behind a keyword: `class`, `async def`, `from`, `as`
            end = self._offset(node.end_lineno or node.lineno, node.end_col_offset or 0)
            match = re.compile(reference.before + r"(" + re.escape(reference.name) + r")(?!\w)").match(
                self._text, start, end
            )
            return match.span(1) if match else None
        end = start + len(reference.name)
        return (start, end) if self._text[start:end] == reference.name else None
