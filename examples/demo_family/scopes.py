"""Lexical scopes of a Python module: what every name is bound to, and every place a plain name stands.

Follows the language reference (4.2 Naming and binding) on the syntax tree alone.
"""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

_GAP = r"(?:\s|\\)*"


@dataclass(frozen=True, kw_only=True, eq=False)
class Binding:
    """One way a scope binds a name.

    kind: "CLASS", "FUNCTION", "PARAMETER", "MODULE", "import" (from a module), or "variable" (anything else).
    module: the module bound ("MODULE") or imported from ("import"); name: the name over there.
    bases: of a class, as written; to be resolved in `scope`.
    """

    kind: str
    scope: Scope
    module: str = ""
    name: str = ""
    bases: tuple[ast.expr, ...] = ()


@dataclass(kw_only=True, eq=False)
class Scope:
    """kind: "module", "class", "function" or "comprehension"."""

    kind: str
    parent: Scope | None
    bindings: dict[str, list[Binding]] = field(default_factory=dict)
    global_names: set[str] = field(default_factory=set)
    nonlocal_names: set[str] = field(default_factory=set)

    def bind(self, bound: str, /, kind: str, **rest: object) -> None:
        target = self.owner(bound)
        target.bindings.setdefault(bound, []).append(Binding(kind=kind, scope=target, **rest))  # type: ignore[arg-type]

    def owner(self, name: str) -> Scope:
        """The scope an assignment to `name` here binds it in."""
        if name in self.global_names:
            return self.module
        scope = self.parent if name in self.nonlocal_names else None
        while scope is not None:
            if scope.kind != "class" and name in scope.bindings:
                return scope
            scope = scope.parent
        return self

    @property
    def module(self) -> Scope:
        return self if self.parent is None else self.parent.module

    def look_up(self, name: str) -> list[Binding] | None:
        """The bindings a use of `name` here refers to; None where only the built-ins are left."""
        if name in self.global_names:
            return self.module.bindings.get(name)
        scope: Scope | None = self
        while scope is not None:
            visible = scope is self or scope.kind != "class"
            if visible and name in scope.bindings:
                return scope.bindings[name]
            scope = scope.parent
        return None


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A place where a name stands.

    The name starts where `node` starts, or behind the pattern `before` from there. `label` is set where the place
    itself tells the kind; else `name` is to be resolved in `scope`.
    """

    name: str
    node: ast.expr | ast.stmt | ast.arg | ast.alias
    scope: Scope
    before: str = ""
    label: str = ""


def read_scopes(tree: ast.Module, module: str, path: str) -> tuple[Scope, list[Reference]]:
    """The module's scope and all references. `module`, `path`: its name and file, to resolve relative imports."""
    reader = _Reader(module if path.endswith("__init__.py") else module.rpartition(".")[0])
    reader.visit(tree)
    return reader.scope, reader.references


class _Reader(ast.NodeVisitor):
    def __init__(self, package: str) -> None:
        self.package = package
        self.scope = Scope(kind="module", parent=None)
        self.references: list[Reference] = []
        self._in_fstring = False

    def _refer(
        self, name: str, node: ast.expr | ast.stmt | ast.arg | ast.alias, before: str = "", label: str = ""
    ) -> None:
        if not self._in_fstring:
            self.references.append(Reference(name=name, node=node, scope=self.scope, before=before, label=label))

    def _visit_all(self, nodes: list[ast.AST | None]) -> None:
        for node in nodes:
            if node is not None:
                self.visit(node)

    @contextlib.contextmanager
    def _inside(self, kind: str) -> Iterator[None]:
        outer = self.scope
        self.scope = Scope(kind=kind, parent=outer)
        yield
        self.scope = outer

    def visit_Name(self, node: ast.Name) -> None:
        if not isinstance(node.ctx, ast.Load):
            self.scope.bind(node.id, "variable")
        self._refer(node.id, node)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.visit(node.value)
        scope = self.scope
        while scope.kind == "comprehension" and scope.parent is not None:
            scope = scope.parent
        scope.bind(node.target.id, "variable")
        self._refer(node.target.id, node.target)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        outer, self._in_fstring = self._in_fstring, True
        self.generic_visit(node)
        self._in_fstring = outer

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._visit_all([*node.decorator_list, node.returns])
        self.scope.bind(node.name, "FUNCTION")
        keyword = rf"async{_GAP}def" if isinstance(node, ast.AsyncFunctionDef) else "def"
        self._refer(node.name, node, before=keyword + _GAP)
        static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in node.decorator_list)
        self._function(node.args, node.body, has_receiver=self.scope.kind == "class" and not static)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._function(node.args, [node.body], has_receiver=False)

    def _function(self, args: ast.arguments, body: list[ast.stmt] | list[ast.expr], has_receiver: bool) -> None:
        positional = [*args.posonlyargs, *args.args]
        parameters = [*positional, *args.kwonlyargs, *(a for a in (args.vararg, args.kwarg) if a)]
        self._visit_all([*args.defaults, *args.kw_defaults, *(a.annotation for a in parameters)])
        with self._inside("function"):
            for parameter in parameters:
                is_receiver = has_receiver and bool(positional) and parameter is positional[0]
                self.scope.bind(parameter.arg, "variable" if is_receiver else "PARAMETER")
                self._refer(parameter.arg, parameter)
            self._body(body)

    def _body(self, body: Sequence[ast.stmt] | Sequence[ast.expr]) -> None:
        for statement in body:
            self._declare(statement)
        self._visit_all(list(body))

    def _declare(self, node: ast.AST) -> None:
        """`global` and `nonlocal` hold for the whole body, so they are read before it."""
        if isinstance(node, ast.Global):
            self.scope.global_names.update(node.names)
        elif isinstance(node, ast.Nonlocal):
            self.scope.nonlocal_names.update(node.names)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            for child in ast.iter_child_nodes(node):
                self._declare(child)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._visit_all([*node.decorator_list, *node.bases, *(k.value for k in node.keywords)])
        self.scope.bind(node.name, "CLASS", bases=tuple(node.bases))
        self._refer(node.name, node, before="class" + _GAP)
        with self._inside("class"):
            self._body(node.body)

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> None:
        self.visit(node.generators[0].iter)  # the outermost iterable belongs to the scope around
        with self._inside("comprehension"):
            for number, generator in enumerate(node.generators):
                self._visit_all([generator.target, *([generator.iter] if number else []), *generator.ifs])
            self._visit_all([node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt])

    visit_ListComp = visit_SetComp = visit_GeneratorExp = visit_DictComp = _comprehension

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            bound = alias.asname or alias.name.partition(".")[0]
            self.scope.bind(bound, "MODULE", module=alias.name if alias.asname else bound)
            self._refer(alias.name, alias, label="MODULE")
            if alias.asname:
                self._refer(alias.asname, alias, before=rf"[\w.]+{_GAP}as{_GAP}")

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = node.module or ""
        if node.level:
            package = self.package.split(".")
            module = ".".join([*package[: len(package) - node.level + 1], *([module] if module else [])])
        if node.module:
            self._refer(node.module, node, before=rf"from{_GAP}(?:\.|{_GAP})*", label="MODULE")
        for alias in node.names:
            if alias.name == "*":
                continue
            bound = alias.asname or alias.name
            self.scope.bind(bound, "import", module=module, name=alias.name)
            if alias.asname:
                self._refer(alias.asname, alias, before=rf"\w+{_GAP}as{_GAP}")
            if bound == alias.name:
                self._refer(bound, alias)

    def _capture(self, node: ast.ExceptHandler | ast.MatchAs | ast.MatchStar | ast.MatchMapping) -> None:
        name = node.rest if isinstance(node, ast.MatchMapping) else node.name
        if name:
            self.scope.bind(name, "variable")
        self.generic_visit(node)

    visit_ExceptHandler = visit_MatchAs = visit_MatchStar = visit_MatchMapping = _capture
