"""The names that a block of code binds, and what its imports bind them to."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


class Target(NamedTuple):
    """What an import binds a name to: a module, and a name in it ("" for the module itself)."""

    module: str
    name: str


class Self:
    """The binding of a method's first argument."""


class Member:
    """The binding of what the body of a class binds."""


class Local:
    """The binding of a variable of a function."""


class Global:
    """The binding of a name that a function declares ``global``."""


if TYPE_CHECKING:  # Python 3.9, which boards have, knows no | of types while it runs
    Binding = Target | Self | Member | Local | Global
SELF, MEMBER, LOCAL, GLOBAL = Self(), Member(), Local(), Global()


@dataclass(frozen=True)
class Scope:
    """The names that a block binds; those of a class are not seen by the functions inside it."""

    names: Mapping[str, Binding]
    of_class: bool = False


@dataclass(frozen=True)
class Globals:
    """The names of a module: definitions, imports, imports for types alone, and loggers."""

    defined: frozenset[str]
    imports: Mapping[str, Target]
    types: Mapping[str, Target]
    loggers: frozenset[str]


def import_targets(node: ast.stmt) -> Iterator[tuple[str, Target]]:
    """Yield the names that an import statement binds; ``*module`` for all names of a module."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            if alias.asname:
                yield alias.asname, Target(alias.name, "")
            else:
                head = alias.name.partition(".")[0]
                yield head, Target(head, "")
    elif isinstance(node, ast.ImportFrom):
        module = "." * node.level + (node.module or "")
        for alias in node.names:
            star = module if alias.name == "*" else ""
            yield f"{alias.asname or alias.name}{star}", Target(module, alias.name)


def bound_names(nodes: Iterable[ast.AST]) -> dict[str, Binding]:
    """Return the names that statements bind in their own scope."""
    bindings: dict[str, Binding] = {}
    nonlocals: set[str] = set()
    globals_: dict[str, Binding] = {}
    queue = [*nodes]
    while queue:
        node = queue.pop()
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            bindings.setdefault(node.name, LOCAL)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            bindings.update(import_targets(node))
        elif isinstance(node, ast.Global):
            globals_.update(dict.fromkeys(node.names, GLOBAL))
        elif isinstance(node, ast.Nonlocal):
            nonlocals.update(node.names)
        elif isinstance(node, (ast.Lambda, *COMPREHENSIONS)):
            walrus = (inner for inner in ast.walk(node) if isinstance(inner, ast.NamedExpr))
            bindings.update((inner.target.id, LOCAL) for inner in walrus)
        else:
            if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
                bindings.setdefault(node.id, LOCAL)
            for field in ("name", "rest"):  # of an except clause and of patterns
                if isinstance(name := getattr(node, field, None), str):
                    bindings.setdefault(name, LOCAL)
            queue += ast.iter_child_nodes(node)
    own = {name: to for name, to in bindings.items() if name not in nonlocals}
    return {**own, **globals_}


def is_main_guard(node: ast.AST) -> bool:
    """Tell whether a statement is ``if __name__ == "__main__":``."""
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Compare)
        and isinstance(node.test.left, ast.Name)
        and node.test.left.id == "__name__"
    )


def is_for_types(node: ast.AST) -> bool:
    """Tell whether a statement is ``if TYPE_CHECKING:``."""
    test = node.test if isinstance(node, ast.If) else None
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", None)
    return name == "TYPE_CHECKING"
