"""The parameters of a ``_target_``: their names and types, without importing torch for them.

A config names classes and functions whose modules import torch, which takes seconds. So the
parameters of ours are read from the source; those of a module that is imported already, of a class
or a function that its source alone does not describe, and of a user's own are inspected.
"""

from __future__ import annotations

import ast
import collections.abc
import importlib.util
import inspect
import sys
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

from torchopt2edge._moved import new_path

OURS = "torchopt2edge."
Find = Callable[[str], Callable[..., Any] | None]
"""Imports what a ``_target_`` names; None where that fails."""
_WITHOUT_FIELDS = {"abc.ABC", "typing.Protocol"}


@dataclass(frozen=True)
class Parameters:
    """What a class or a function takes by keyword.

    Args:
        owner: the name of the class or the function.
        types: the type of each parameter; `typing.Any` where it is not known.
        any_name: whether other keywords are taken too (``**kwargs``).
    """

    owner: str
    types: Mapping[str, Any]
    any_name: bool = False


def parameters_of(target: str, find: Find) -> Parameters | None:
    """Return the parameters of what a ``_target_`` names; None where they cannot be known."""
    path = new_path(target) or target
    if path.startswith(OURS) and path.rpartition(".")[0] not in sys.modules:
        declared = _declared(path)
        if declared is not None:
            return Parameters(declared.owner, _evaluated(declared.types), declared.any_name)
    function = find(path)
    return None if function is None else inspected(function)


def inspected(function: Callable[..., Any]) -> Parameters | None:
    """Return the parameters of a class or a function; None where it does not describe them."""
    try:
        taken = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # written in C
        return None
    is_class = isinstance(function, type) and not is_dataclass(function)
    types = _hints(vars(function).get("__init__") if is_class else function)
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL)
    named = [item.name for item in taken if item.kind not in (*positional, item.VAR_KEYWORD)]
    any_name = any(item.kind is item.VAR_KEYWORD for item in taken)
    owner = getattr(function, "__name__", str(function))
    return Parameters(owner, {name: types.get(name, Any) for name in named}, any_name)


class _AnyName(type):
    def __getattr__(cls, name: str) -> Any:
        return Any

    def __getitem__(cls, item: Any) -> Any:
        return Any


class _Unknown(metaclass=_AnyName):
    """Stands for a name in an annotation that is imported for type checkers alone."""


def _hints(item: Any, names: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return `typing.get_type_hints`; a name that is not there stands for any type."""
    unknown: dict[str, Any] = {}
    while True:
        try:
            return typing.get_type_hints(item, names, unknown)
        except NameError as error:
            if not error.name or error.name in unknown:
                return {}
            unknown[error.name] = _Unknown
        except (TypeError, AttributeError, SyntaxError):
            return {}


def _evaluated(texts: Mapping[str, str]) -> dict[str, Any]:
    """Return the types of annotations; of names only Python's own are known."""
    holder = type("Holder", (), {"__annotations__": dict(texts)})
    hints = _hints(holder, {**vars(collections.abc), **vars(typing)})
    return {name: hints.get(name, Any) for name in texts}


def _declared(path: str) -> Parameters | None:
    """Read the parameters from the source; None where it does not show them, or there is none."""
    module, _, name = path.rpartition(".")
    tree = _source(module)
    for node in tree.body if tree is not None else ():
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return None if node.decorator_list else _of_function(node)
        if isinstance(node, ast.ClassDef) and node.name == name:
            return _of_class(node, _imports(module, tree)) if _is_dataclass(node) else None
    return None


def _source(module: str) -> ast.Module | None:
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None
    file = Path(spec.origin or "") if spec else Path()
    return ast.parse(file.read_text(encoding="utf-8")) if file.suffix == ".py" else None


def _imports(module: str, tree: ast.Module | None) -> dict[str, str]:
    """Map the names at the top of a module to their full paths."""
    full: dict[str, str] = {}
    for node in tree.body if tree is not None else ():
        if isinstance(node, ast.ImportFrom):
            names = {alias.asname or alias.name: alias.name for alias in node.names}
            full |= {name: f"{node.module}.{source}" for name, source in names.items()}
        elif isinstance(node, ast.ClassDef):
            full[node.name] = f"{module}.{node.name}"
    return full


def _is_dataclass(node: ast.ClassDef) -> bool:
    return any(ast.unparse(item).partition("(")[0] == "dataclass" for item in node.decorator_list)


def _of_function(node: ast.FunctionDef) -> Parameters:
    named = [*node.args.args, *node.args.kwonlyargs]
    texts = {arg.arg: ast.unparse(arg.annotation) if arg.annotation else "Any" for arg in named}
    return Parameters(node.name, texts, node.args.kwarg is not None)


def _of_class(node: ast.ClassDef, imports: Mapping[str, str]) -> Parameters | None:
    texts: dict[str, str] = {}
    for base in reversed(node.bases):
        if imports.get(ast.unparse(base)) in _WITHOUT_FIELDS:
            continue
        inherited = _declared(imports.get(ast.unparse(base), ""))
        if inherited is None:
            return None
        texts |= inherited.types
    fields = (item for item in node.body if isinstance(item, ast.AnnAssign))
    texts |= {ast.unparse(item.target): ast.unparse(item.annotation) for item in fields}
    plain = {name: text for name, text in texts.items() if not text.startswith("ClassVar")}
    return Parameters(node.name, plain)
