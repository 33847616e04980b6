"""Names of the previous release, which still work and warn with the new name.

Import paths, in a user's code or in a ``_target_`` of a user's config; functions; keywords, which
are keys of configs too. All work for one release. The warning is a `FutureWarning`: a
`DeprecationWarning` would be hidden from those who only write configs. Remove the tables with the
release after, and then this file.
"""

from __future__ import annotations

import functools
import importlib
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, TypeVar

T = TypeVar("T")

# Old path -> new path. A module that became a package lists its names one by one.
MOVED = {
    "torchopt2edge.api.lower": "torchopt2edge.api.quantize",
    "torchopt2edge.api.measure": "torchopt2edge.api.bench",
    "torchopt2edge.backends.litert.LiteRT": "torchopt2edge.backends.litert.backend.LiteRT",
    "torchopt2edge.backends.ort.Ort": "torchopt2edge.backends.ort.backend.Ort",
    "torchopt2edge.backends.session": "torchopt2edge.backends.file_session",
    "torchopt2edge.bench.protocol": "torchopt2edge.bench.timing",
    "torchopt2edge.bench.setting": "torchopt2edge.bench.thread_settings",
    "torchopt2edge.bench.timing.Protocol": "torchopt2edge.bench.timing.TimingPlan",
    "torchopt2edge.bench.tools": "torchopt2edge.bench.vendor_tools",
    "torchopt2edge.devices.remote.Remote": "torchopt2edge.devices.remote.device.Remote",
    "torchopt2edge.devices.transport": "torchopt2edge.devices.remote.transport",
    "torchopt2edge.distillation": "torchopt2edge.compression.distillation",
    "torchopt2edge.lower": "torchopt2edge.quantize",
    "torchopt2edge.measure": "torchopt2edge.bench",
    "torchopt2edge.meter": "torchopt2edge.workflow.latency_meter",
    "torchopt2edge.preprocess": "torchopt2edge.preprocessing.preprocess",
    "torchopt2edge.progress": "torchopt2edge.workflow.progress",
    "torchopt2edge.protocols": "torchopt2edge.interfaces",
    "torchopt2edge.pruning": "torchopt2edge.compression.pruning",
    "torchopt2edge.quantize.prepare": "torchopt2edge.quantize.graph.prepare",
    "torchopt2edge.ramp": "torchopt2edge.compression.schedules",
    "torchopt2edge.sparsity": "torchopt2edge.compression.sparsity",
}

# Old keyword, or key of a config -> new one.
KEYWORDS = {"calibrator": "observer", "protocol": "timing"}


def new_path(old: str) -> str | None:
    """Return the new path of an old module or name, or of one below it; None for any other."""
    head, tail = old, ""
    while "." in head:
        if head in MOVED:
            new = MOVED[head] + tail
            return new_path(new) or new
        head, _, last = head.rpartition(".")
        tail = f".{last}{tail}"
    return None


def names_of(package: str) -> Callable[[str], Any]:
    """Return a ``__getattr__`` for a package that was a module: its old names with a warning."""

    def get(name: str) -> Any:
        new = MOVED.get(f"{package}.{name}")
        if new is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        _warn(f"{package}.{name}", new, _callers())
        home, _, last = new.rpartition(".")
        return getattr(importlib.import_module(home), last)

    return get


def keywords(given: Mapping[str, Any], taken: Sequence[str]) -> dict[str, Any]:
    """Return keywords under their new names, with a warning for each old one.

    Args:
        given: the keywords, by name.
        taken: the names that the function takes; an old name is replaced when the new one is here.
    """
    old = {name for name in given if KEYWORDS.get(name) in taken and name not in taken}
    for name in old:
        _warn(name, KEYWORDS[name], _callers(), "name")
    renamed = {KEYWORDS[name]: given[name] for name in old}
    return {**{name: value for name, value in given.items() if name not in old}, **renamed}


def takes_old_keywords(cls: type[T]) -> type[T]:
    """Let a dataclass be built with the old names of its fields: a decorator above `dataclass`."""
    build: Callable[..., None] = vars(cls)["__init__"]
    taken = tuple(vars(cls)["__dataclass_fields__"])

    @functools.wraps(build)
    def init(self: T, *args: Any, **given: Any) -> None:
        build(self, *args, **keywords(given, taken))

    setattr(cls, "__init__", init)  # noqa: B010 (mypy lets nobody assign it)
    return cls


def install() -> None:
    """Make old modules importable: under the old name lies the new module itself."""
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)


class _Finder:
    """Finds old modules, and loads each as the module that it became."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a spec for an old module; None leaves every other to the usual finders."""
        known = name.startswith("torchopt2edge.") and new_path(name)
        return ModuleSpec(name, _FINDER) if known else None

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave the making of a module to Python: it is replaced at once."""

    def exec_module(self, module: ModuleType) -> None:
        """Put the new module where the import system takes what was imported from."""
        old = module.__name__
        new = new_path(old) or old
        sys.modules[old] = importlib.import_module(new)
        if old in MOVED:  # what lies below was reached by way of it
            _warn(old, new)


_FINDER: Any = _Finder()


def _callers() -> int:
    """Return the ``stacklevel`` at which `_warn` names the first caller outside the package."""
    level, frame = 2, sys._getframe(1)
    ours = __name__.partition(".")[0]
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] == ours:
        level, frame = level + 1, frame.f_back
    return level


def _warn(old: str, new: str, stacklevel: int = 3, what: str = "path") -> None:
    text = f"{old} is now {new}; the old {what} works until the next release"
    warnings.warn(text, FutureWarning, stacklevel=stacklevel)
