"""Edits of source text: one line of a definition, or everything that computes nothing."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torchopt2edge

PACKAGE = Path(torchopt2edge.__file__).parent
LINE = "edited_by_a_test = 1"


def one_line(value: Callable[..., Any] | type) -> dict[str, str]:
    """Add a line to a function, a method or a class; return the text of its file, by its path."""
    path = Path(inspect.getfile(value))
    text = path.read_text()
    body: list[ast.stmt] = ast.parse(text).body
    for name in value.__qualname__.split("."):
        (found,) = (node for node in body if getattr(node, "name", None) == name)
        body = found.body  # type: ignore[attr-defined]
    first = body[1] if ast.get_docstring(found) else body[0]  # type: ignore[arg-type]
    decorated = getattr(first, "decorator_list", None)
    row = (decorated[0].lineno if decorated else first.lineno) - 1
    lines = text.splitlines(keepends=True)
    lines.insert(row, f"{' ' * first.col_offset}{LINE}\n")
    return {path.relative_to(PACKAGE).as_posix(): "".join(lines)}


def rewritten() -> dict[str, str]:
    """Return every file of the package as it could be written instead, with the same results.

    No comment and no docstring is left, the layout, quotes and parentheses are those of
    `ast.unparse`, and every message says something else.
    """
    files = sorted(PACKAGE.rglob("*.py"))
    return {
        path.relative_to(PACKAGE).as_posix(): ast.unparse(
            ast.fix_missing_locations(_Other().visit(ast.parse(path.read_text())))
        )
        for path in files
    }


class _Other(ast.NodeTransformer):
    """Drops docstrings and results' annotations, changes messages."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return ast.Pass()
        call = node.value
        if isinstance(call, ast.Call) and ast.unparse(call.func) in ("_LOG.info", "_LOG.warning"):
            call.args = [ast.Constant("another message")]
        return self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if isinstance(node.exc, ast.Call):
            node.exc.args = [ast.Constant("another message")]
            node.exc.keywords = []
        return self.generic_visit(node)

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        node.msg = ast.Constant("another message")
        return self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)
