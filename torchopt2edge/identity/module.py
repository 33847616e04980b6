"""One source file as definitions: what each of them computes, and what it refers to."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torchopt2edge.identity.scope import (
    FUNCTIONS,
    MEMBER,
    Globals,
    Scope,
    Target,
    bound_names,
    import_targets,
    is_for_types,
    is_main_guard,
)
from torchopt2edge.identity.syntax import Piece, Reference, piece_of

if TYPE_CHECKING:
    from torchopt2edge.identity.scope import Binding

_IMPORTS = (ast.Import, ast.ImportFrom)


@dataclass(frozen=True)
class Definition:
    """A statement at the top of a module, and the names that it binds.

    ``piece`` is the statement, of a class its decorators and bases. ``members`` are the statements
    of a class's body, each with the names that it binds.
    """

    names: tuple[str, ...]
    kind: str
    piece: Piece
    members: tuple[tuple[tuple[str, ...], Piece], ...] = ()
    bases: tuple[Reference, ...] = ()

    @property
    def is_interface(self) -> bool:
        """Whether it is a ``typing.Protocol``: it says what others compute."""
        return any(base.path.rpartition(".")[2] == "Protocol" for base in self.bases)


@dataclass(frozen=True)
class Module:
    """The definitions of a file, its imports, those for types alone, and what it does besides.

    ``effects`` are the statements that bind no name, which run when the module is imported;
    ``main`` is what it does when it is run.
    """

    definitions: tuple[Definition, ...]
    imports: Mapping[str, Target]
    types: Mapping[str, Target] = field(default_factory=dict)
    effects: Piece | None = None
    main: Piece | None = None

    @functools.cached_property
    def by_name(self) -> Mapping[str, Sequence[Definition]]:
        """The statements that bind a name."""
        index: dict[str, list[Definition]] = {}
        for definition in self.definitions:
            for name in definition.names:
                index.setdefault(name, []).append(definition)
        return index

    def pieces(self) -> Iterator[Piece]:
        """Yield the pieces of the whole module."""
        for definition in self.definitions:
            yield definition.piece
            yield from (piece for _, piece in definition.members)
        yield from filter(None, (self.effects, self.main))


def read(source: bytes) -> Module:
    """Read the source of a module.

    Raises:
        SyntaxError: it is no Python.
    """
    tree = ast.parse(source)
    statements = [*_statements(tree.body)]
    types = {
        name: to
        for node in tree.body
        if is_for_types(node)
        for inner in ast.walk(node)
        if isinstance(inner, ast.stmt)
        for name, to in import_targets(inner)
    }
    bound = bound_names(statements)
    imports = {name: to for name, to in bound.items() if isinstance(to, Target)}
    named = [(_names(node), node) for node in statements]
    defined = frozenset(name for names, _ in named for name in names)
    known = Globals(defined, imports, types, frozenset(_loggers(statements)))
    definitions = tuple(_definition(names, node, known) for names, node in named if names)
    rest = [n for names, n in named if not names and not isinstance(n, _IMPORTS)]
    guards = [n for n in tree.body if isinstance(n, ast.If) and is_main_guard(n)]
    main = [inner for guard in guards for inner in guard.body]
    effects, run = (_unless_empty(piece_of(part, known)) for part in (rest, main))
    return Module(definitions, imports, types, effects, run)


def _unless_empty(piece: Piece) -> Piece | None:
    return None if piece.digest == _NOTHING and not piece.references else piece


def _statements(nodes: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    for node in nodes:
        if is_for_types(node) and isinstance(node, ast.If):
            yield from _statements(node.orelse)
        elif not is_main_guard(node):
            yield node


def _names(node: ast.stmt) -> tuple[str, ...]:
    """Return the names that a statement binds or changes, imports left out."""
    bound = bound_names([node])
    names = [name for name, to in bound.items() if not isinstance(to, Target)]
    for target in _targets(node):  # TABLE["key"] = value changes TABLE
        inner = target
        while isinstance(inner, (ast.Attribute, ast.Subscript)):
            inner = inner.value
        if isinstance(inner, ast.Name):
            names.append(inner.id)
    return tuple(name for name in dict.fromkeys(names) if name != "__all__")


def _targets(node: ast.stmt) -> list[ast.expr]:
    if isinstance(node, (ast.AnnAssign, ast.AugAssign)):
        return [node.target]
    return node.targets if isinstance(node, (ast.Assign, ast.Delete)) else []


def _loggers(statements: Sequence[ast.stmt]) -> Iterator[str]:
    for node in statements:
        value = node.value if isinstance(node, ast.Assign) else None
        if isinstance(value, ast.Call) and ast.unparse(value.func).endswith("getLogger"):
            yield from (name.id for name in _targets(node) if isinstance(name, ast.Name))


def _definition(names: tuple[str, ...], node: ast.stmt, known: Globals) -> Definition:
    if isinstance(node, ast.ClassDef):
        return _class(node, known)
    if isinstance(node, FUNCTIONS):
        return Definition(names, "function", piece_of([node], known))
    return Definition(names, "value", piece_of([node], known))


def _class(node: ast.ClassDef, known: Globals) -> Definition:
    bound: dict[str, Binding] = dict.fromkeys(bound_names(node.body), MEMBER)
    scopes = (Scope(bound, of_class=True),)
    head = ast.ClassDef(
        name=node.name,
        bases=node.bases,
        keywords=node.keywords,
        body=[],
        decorator_list=node.decorator_list,
    )
    members = []
    for statement in node.body:
        method = isinstance(statement, FUNCTIONS)
        piece = piece_of([statement], known, scopes, method)
        if piece.digest != _NOTHING:
            members.append((_names(statement), piece))
    bases = [ref for base in node.bases for ref in piece_of([base], known).references[:1]]
    return Definition((node.name,), "class", piece_of([head], known), tuple(members), tuple(bases))


_NOTHING = piece_of((), Globals(frozenset(), {}, {}, frozenset())).digest
