"""The code of a definition as text that only an edit of what it computes changes.

The text is a serialization of the syntax tree of our own: `ast.dump` and `ast.unparse` differ from
one Python to the next. It leaves out line numbers, comments, formatting, docstrings, annotations,
the arguments of our errors and of any ``raise``, the messages of ``assert``, and log lines. A name
that refers to something outside the definition becomes a `Reference` beside the text; to one of
our own modules by a mark alone, so that modules can be moved and aliases renamed.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from torchopt2edge.identity.excluded import ERRORS, PACKAGE
from torchopt2edge.identity.scope import (
    COMPREHENSIONS,
    LOCAL,
    SELF,
    Global,
    Globals,
    Local,
    Member,
    Scope,
    Self,
    Target,
    bound_names,
    import_targets,
    is_for_types,
)

if TYPE_CHECKING:
    from torchopt2edge.identity.scope import Binding

USE, TYPE, OWN = "use", "type", "self"
_LOGGING = {"debug", "info", "warning", "error", "critical", "exception", "log"}
_SKIPPED = {"ctx", "kind", "type_comment", "annotation", "returns", "type_params", "simple"}


class Reference(NamedTuple):
    """What a definition refers to.

    Args:
        kind: `USE` where it is used, `TYPE` where it is named in an annotation, `OWN` for a
            member of the class that a method is in (``path`` is "" for the whole object).
        module: the module it is taken from, "" for the definition's own, with leading dots for
            a relative import.
        path: the dotted name in that module, "" for the module itself.
    """

    kind: str
    module: str
    path: str


@dataclass(frozen=True)
class Piece:
    """The sha256 of a text, and what it refers to, in order of first occurrence."""

    digest: str
    references: tuple[Reference, ...]


def piece_of(
    nodes: Sequence[ast.AST], known: Globals, scopes: Sequence[Scope] = (), method: bool = False
) -> Piece:
    """Serialize statements of a module.

    Args:
        nodes: the statements.
        known: the names of the module.
        scopes: the scopes that the statements are in, the outermost first.
        method: whether a function among them is a method, whose first argument is the object.
    """
    writer = _Writer(known, scopes)
    writer.method = method
    writer.statements(nodes)
    return Piece(writer.digest(), tuple(dict.fromkeys(writer.references)))


class _Writer:
    """Writes nodes into ``out``; a method per kind of node that is not written field by field."""

    def __init__(self, known: Globals, scopes: Sequence[Scope]) -> None:
        self.out: list[str] = []
        self.references: list[Reference] = []
        self.method = False
        self._known, self._scopes = known, [*scopes]
        self._visitors: dict[type[ast.AST], Callable[[Any], None]] = {
            ast.FunctionDef: self._function,
            ast.AsyncFunctionDef: self._function,
            ast.ClassDef: self._class,
            ast.Lambda: self._lambda,
            ast.Name: self._name,
            ast.Attribute: self._attribute,
            ast.Call: self._call,
            ast.Constant: self._constant,
            ast.JoinedStr: self._joined,
            ast.Raise: self._raise,
            ast.Assert: self._assert,
            ast.AnnAssign: self._declared,
            ast.arg: self._argument,
            **dict.fromkeys(COMPREHENSIONS, self._comprehension),
        }

    def digest(self) -> str:
        """Return the sha256 of what was written."""
        return hashlib.sha256("".join(self.out).encode("ascii", "backslashreplace")).hexdigest()

    def statements(self, nodes: Iterable[ast.AST]) -> None:
        """Write a block without the statements that compute nothing."""
        self.out.append("{")
        for node in nodes:
            if is_for_types(node):
                self.statements(getattr(node, "orelse", ()))
            elif not self._idle(node):
                self._node(node)
                self.out.append(";")
        self.out.append("}")

    def _idle(self, node: ast.AST) -> bool:
        """Tell whether a statement computes nothing; note what an import loads."""
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for _, (module, name) in import_targets(node):
                if name == "*" or module.partition(".")[0] != PACKAGE:
                    self._refer(USE, module, "" if name == "*" else name)
            return True
        if isinstance(node, ast.Expr):
            return isinstance(node.value, ast.Constant) or self._logs(node.value)
        return isinstance(node, (ast.Pass, ast.Global, ast.Nonlocal))

    def _logs(self, node: ast.expr) -> bool:
        """Tell whether an expression writes a line of a log."""
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            return False
        logger = node.func.value
        made_here = isinstance(logger, ast.Call) and _last_name(logger.func) == "getLogger"
        named = isinstance(logger, ast.Name) and logger.id in self._known.loggers
        return node.func.attr in _LOGGING and (made_here or named)

    def _node(self, node: ast.AST) -> None:
        visit = self._visitors.get(type(node))
        if visit is not None:
            visit(node)
            return
        self.out.append(f"{type(node).__name__}(")
        for field in node._fields:
            value = getattr(node, field, None)
            if field in _SKIPPED or value is None or (isinstance(value, list) and not value):
                continue
            self.out.append(f"{field}=")
            self._value(value)
        self.out.append(")")

    def _value(self, value: Any) -> None:
        if isinstance(value, ast.AST):
            self._node(value)
        elif isinstance(value, list) and value and isinstance(value[0], ast.stmt):
            self.statements(value)
        elif isinstance(value, list):
            self.out.append("[")
            for item in value:
                self._value(item)
                self.out.append(",")
            self.out.append("]")
        else:
            self.out.append(ascii(value))

    # Names

    def _lookup(self, name: str) -> Binding | None:
        for depth, scope in enumerate(reversed(self._scopes)):
            if name in scope.names and not (scope.of_class and depth):
                binding = scope.names[name]
                return None if isinstance(binding, Global) else binding
        return None

    def _refer(self, kind: str, module: str, path: str) -> None:
        self.references.append(Reference(kind, module, path))

    def _name(self, node: ast.Name) -> None:
        self._chain(node.id, [])

    def _attribute(self, node: ast.Attribute) -> None:
        attributes: list[str] = []
        inner: ast.expr = node
        while isinstance(inner, ast.Attribute):
            attributes.insert(0, inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name):
            self._chain(inner.id, attributes)
        else:
            self._node(inner)
            self.out.append(f".{'.'.join(attributes)}")

    def _chain(self, name: str, attributes: list[str]) -> None:
        """Write a name with its attributes, and note what it refers to."""
        binding = self._lookup(name)
        dotted = ".".join((name, *attributes))
        if isinstance(binding, Self):
            self._refer(OWN, "", attributes[0] if attributes else "")
        elif isinstance(binding, Member):
            self._refer(OWN, "", name)
        elif binding is None and name == "super":
            self._refer(OWN, "", "")
        if isinstance(binding, (Self, Member, Local)):
            self.out.append(f"${dotted}")
            return
        if binding is None and name in self._known.defined:
            self._refer(USE, "", dotted)
        target = binding if isinstance(binding, Target) else self._known.imports.get(name)
        if target is None:
            self.out.append(f"${dotted}")
        else:
            self._imported(target, attributes)

    def _imported(self, target: Target, attributes: list[str]) -> None:
        path = ".".join(filter(None, (target.name, *attributes)))
        self._refer(USE, target.module, path)
        ours = target.module.partition(".")[0] == PACKAGE
        shown = ".".join(attributes) if ours else f"{target.module}.{path}"
        self.out.append(f"@{shown}")

    def _annotation(self, node: ast.expr | None) -> None:
        """Note the names in an annotation, which may be written as a string."""
        for inner in () if node is None else ast.walk(node):
            if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
                try:
                    self._annotation(ast.parse(inner.value, mode="eval").body)
                except SyntaxError:  # the text of a Literal
                    continue
            elif isinstance(inner, ast.Name):
                self._type(inner.id)
            elif isinstance(inner, ast.Attribute) and isinstance(inner.value, ast.Name):
                self._type(inner.value.id, inner.attr)

    def _type(self, name: str, attribute: str = "") -> None:
        binding = self._lookup(name)
        target = binding if isinstance(binding, Target) else None
        target = target or self._known.imports.get(name) or self._known.types.get(name)
        if name in self._known.defined:
            self._refer(TYPE, "", name)
        elif target is not None:
            path = ".".join(filter(None, (target.name, attribute)))
            self._refer(TYPE, target.module, path)

    # Nodes that are written in a way of their own

    def _constant(self, node: ast.Constant) -> None:
        self.out.append(ascii(node.value))

    def _joined(self, node: ast.JoinedStr) -> None:
        """Write an f-string, whose texts Python versions cut into pieces differently."""
        self.out.append("f[")
        text = ""
        for part in node.values:
            if isinstance(part, ast.Constant):
                text += str(part.value)
                continue
            self.out.append(ascii(text))
            text = ""
            self._node(part)
        self.out.append(f"{text!a}]")

    def _call(self, node: ast.Call) -> None:
        if self._of_errors(node.func):
            self.out.append("Error(")
            self._node(node.func)
            self.out.append(")")
            return
        self.out.append("(")
        self._node(node.func)
        for part in (node.args, node.keywords):
            self._value(part)
        self.out.append(")")
        if _last_name(node.func) == "import_module" and node.args:
            module = getattr(node.args[0], "value", None)  # a computed name has no reference
            if isinstance(module, str):
                self._refer(USE, module, "")

    def _of_errors(self, node: ast.expr) -> bool:
        """Tell whether an expression names one of our exceptions."""
        base = node.value if isinstance(node, ast.Attribute) else node
        if not isinstance(base, ast.Name):
            return False
        target = self._lookup(base.id) or self._known.imports.get(base.id)
        if not isinstance(target, Target):
            return False
        return ERRORS in (target.module, f"{target.module}.{target.name}")

    def _raise(self, node: ast.Raise) -> None:
        self.out.append("Raise(")
        if node.exc is not None:
            self._node(node.exc.func if isinstance(node.exc, ast.Call) else node.exc)
        self.out.append(")")

    def _assert(self, node: ast.Assert) -> None:
        self.out.append("Assert(")
        self._node(node.test)
        self.out.append(")")

    def _declared(self, node: ast.AnnAssign) -> None:
        """Write a declared variable; in a class the annotation counts, it makes a field."""
        in_class = bool(self._scopes) and self._scopes[-1].of_class
        if not in_class:
            if node.value is not None:
                self._node(ast.Assign(targets=[node.target], value=node.value))
            return
        self._annotation(node.annotation)
        count = len(self.references)
        self.out.append("Field(")
        for part in (node.target, node.annotation):
            self._node(part)
        del self.references[count:]  # they are noted already, as types
        if node.value is not None:
            self._node(node.value)
        self.out.append(")")

    def _argument(self, node: ast.arg) -> None:
        self._annotation(node.annotation)
        self.out.append(f"{node.arg},")

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        method, self.method = self.method, False
        self.out.append(f"{type(node).__name__} {node.name}(")
        self._value(node.decorator_list)
        self._node(node.args)
        static = any(_last_name(mark) == "staticmethod" for mark in node.decorator_list)
        names = _argument_names(node.args)
        bound: dict[str, Binding] = {**bound_names(node.body), **dict.fromkeys(names, LOCAL)}
        if method and not static and names:
            bound[names[0]] = SELF
        with self._scope(Scope(bound)):
            self.statements(node.body)
        self.out.append(")")

    def _lambda(self, node: ast.Lambda) -> None:
        self.out.append("lambda(")
        self._node(node.args)
        with self._scope(Scope(dict.fromkeys(_argument_names(node.args), LOCAL))):
            self._node(node.body)
        self.out.append(")")

    def _comprehension(self, node: Any) -> None:
        self.out.append(f"{type(node).__name__}(")
        self._node(node.generators[0].iter)
        bound = bound_names(loop.target for loop in node.generators)
        with self._scope(Scope(bound)):
            for index, loop in enumerate(node.generators):
                self.out.append(f"for {loop.is_async} ")
                self._node(loop.target)
                if index:
                    self._node(loop.iter)
                self._value(loop.ifs)
            for field in ("elt", "key", "value"):
                if (part := getattr(node, field, None)) is not None:
                    self._node(part)
        self.out.append(")")

    def _class(self, node: ast.ClassDef) -> None:
        """Write a class inside a function."""
        self.out.append(f"class {node.name}(")
        for part in (node.decorator_list, node.bases, node.keywords):
            self._value(part)
        with self._scope(Scope(bound_names(node.body), of_class=True)):
            self.statements(node.body)
        self.out.append(")")

    @contextmanager
    def _scope(self, scope: Scope) -> Iterator[None]:
        self._scopes.append(scope)
        yield
        self._scopes.pop()


def _last_name(node: ast.expr) -> str:
    """Return the name behind the last dot of an expression, "" where it is no name."""
    return str(getattr(node, "attr", getattr(node, "id", "")))


def _argument_names(args: ast.arguments) -> list[str]:
    listed = [*args.posonlyargs, *args.args, args.vararg, *args.kwonlyargs, args.kwarg]
    return [one.arg for one in listed if one is not None]
