"""The identity of a configuration: its plain data and the code behind its functions and classes."""

from __future__ import annotations

import functools
import inspect
import json
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from torchopt2edge.errors import ConfigError
from torchopt2edge.identity.cache import CodeCache
from torchopt2edge.identity.closure import Closure, Code, Node, Place
from torchopt2edge.identity.excluded import PACKAGE
from torchopt2edge.identity.reader import ROOT, content_digest, is_installed, source_file

NO_CACHE = CodeCache()
_NO_CODE = Code("", frozenset(), ())  # of a builtin, or of what was typed at a prompt


class Identity:
    """Reduces values to plain JSON data that is equal exactly when the behaviour is.

    ``packages`` collects the installed packages that the code of the values imports, and those
    that an object names in its ``tools``, a tuple.
    """

    def __init__(self, cache: CodeCache = NO_CACHE) -> None:
        self.packages: set[str] = set()
        self._cache = cache

    def of(self, value: object) -> Any:
        """Return plain data.

        A frozen dataclass becomes its class's name and code and its fields (a field with
        ``metadata={"identity": False}`` is left out, such as a number of threads); a function or
        a ``functools.partial`` its name, code and arguments; a method its own code and its
        object's fields. An object with a ``fingerprint()`` method adds what that returns (a data
        set's content).

        Raises:
            ConfigError: the value has no stable identity: a live object, a lambda or a function
                inside a function, whose name and source do not say what it holds.
        """
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, Path):
            return str(value)
        if isinstance(value, Mapping):
            return {str(key): self.of(item) for key, item in sorted(value.items(), key=_by_name)}
        if isinstance(value, (list, tuple, set, frozenset)):
            items = [self.of(item) for item in value]
            return sorted(items, key=json.dumps) if isinstance(value, (set, frozenset)) else items
        if isinstance(value, functools.partial):
            parts = {"partial": value.func, "args": value.args, "kwargs": value.keywords}
            return {name: self.of(part) for name, part in parts.items()}
        if is_dataclass(value) and not isinstance(value, type):
            self._name_tools(value)
            return {"code": self._add(self._code(type(value))), **self._content(value)}
        if inspect.ismethod(value) and is_dataclass(value.__self__):
            return self._method(value.__name__, value.__self__)
        name = getattr(value, "__qualname__", "<>")
        if callable(value) and "<" not in name and not _is_bound(value):
            return {"callable": name, "code": self._add(self._code(value))}
        raise ConfigError(
            f"a value of type {type(value).__name__} has no stable identity for the store",
            hint="use plain values, frozen dataclasses, functions of a module or functools.partial",
        )

    def _content(self, value: Any) -> dict[str, Any]:
        """Return the class's name, the fields and the fingerprint of a dataclass."""
        counted = {
            field.name: self.of(getattr(value, field.name))
            for field in fields(value)
            if field.metadata.get("identity", True)
        }
        content = {"class": type(value).__qualname__, "fields": counted}
        fingerprint = getattr(value, "fingerprint", None)
        return {**content, "fingerprint": fingerprint()} if callable(fingerprint) else content

    def _method(self, name: str, value: Any) -> dict[str, Any]:
        code = self._add(self._code(type(value), name))
        return {"method": name, "code": code, "of": self._content(value)}

    def _name_tools(self, value: Any) -> None:
        """Take the packages that an object names because its code does not import them."""
        tools = getattr(value, "tools", ())
        if isinstance(tools, tuple) and all(isinstance(name, str) for name in tools):
            self.packages.update(tools)

    def _add(self, code: Code) -> str:
        self.packages |= code.packages
        return code.digest

    def _code(self, value: Any, method: str = "") -> Code:
        """Return the code of a function or a class, or of a method of objects of the class."""
        module = getattr(value, "__module__", None) or "builtins"
        names = [*value.__qualname__.split("."), method]
        if module.partition(".")[0] == PACKAGE:
            return _ours(self._cache, module, names[0], "" if "<" in names[1] else names[1])
        if module.partition(".")[0] in sys.stdlib_module_names and module != "__main__":
            return _NO_CODE
        return _users(self._cache, module, value)


def code_of(value: Any, cache: CodeCache = NO_CACHE) -> Code:
    """Return the identity of the code of a function or a class."""
    return Identity(cache)._code(value)


@functools.cache
def _ours(cache: CodeCache, module: str, name: str, member: str) -> Code:
    """Return the code of a definition of ours; it is read once per process."""
    closure, place = Closure(), Place(module, name)

    def roots() -> list[Node]:
        members = [*closure.member(place, member)] if member else []
        if any(node.name == member for node in members):
            return members
        return [*closure.at(*place), *closure.left_out(place)]

    return cache.code_of(closure, roots, f"{ROOT} {module} {name} {member}")


def _users(cache: CodeCache, module: str, value: Any) -> Code:
    """Return the code of a user, or what stands for that of an installed package."""
    path = source_file(module) or _source_of(value)
    if path is None:
        return _NO_CODE
    if is_installed(path):
        packages = frozenset({module.partition(".")[0]})
        return Code(content_digest(path)[:32], packages, (module,))
    closure = Closure({module: path})
    return cache.code_of(closure, lambda: [*closure.at(module, "")], f"{path} {module}")


def _source_of(value: Any) -> Path | None:
    try:
        name = inspect.getsourcefile(value)
    except (TypeError, OSError):
        return None
    return Path(name).resolve() if name and Path(name).is_file() else None


def _is_bound(value: Any) -> bool:
    """Tell whether a callable holds an object whose state cannot be seen."""
    owner = getattr(value, "__self__", None)
    return owner is not None and not isinstance(owner, type) and not inspect.ismodule(owner)


def _by_name(item: tuple[Any, Any]) -> str:
    return str(item[0])
