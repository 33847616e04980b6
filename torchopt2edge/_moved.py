"""Import paths of the previous release, which still work and name their new path.

A path in a user's code or in a ``_target_`` of a user's config goes on working for one release. A
`FutureWarning` says what to write instead: a `DeprecationWarning` would be hidden from those who
only write configs. Remove the table with the release after, and then this file.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# Old path -> new path. A module that became a package lists its names one by one.
MOVED = {
    "torchopt2edge.backends.litert.LiteRT": "torchopt2edge.backends.litert.backend.LiteRT",
    "torchopt2edge.backends.ort.Ort": "torchopt2edge.backends.ort.backend.Ort",
    "torchopt2edge.backends.session": "torchopt2edge.backends.file_session",
    "torchopt2edge.bench.protocol": "torchopt2edge.bench.timing",
    "torchopt2edge.bench.setting": "torchopt2edge.bench.thread_settings",
    "torchopt2edge.bench.tools": "torchopt2edge.bench.vendor_tools",
    "torchopt2edge.devices.remote.Remote": "torchopt2edge.devices.remote.device.Remote",
    "torchopt2edge.devices.transport": "torchopt2edge.devices.remote.transport",
    "torchopt2edge.distillation": "torchopt2edge.compression.distillation",
    "torchopt2edge.meter": "torchopt2edge.workflow.latency_meter",
    "torchopt2edge.preprocess": "torchopt2edge.preprocessing.preprocess",
    "torchopt2edge.progress": "torchopt2edge.workflow.progress",
    "torchopt2edge.protocols": "torchopt2edge.interfaces",
    "torchopt2edge.pruning": "torchopt2edge.compression.pruning",
    "torchopt2edge.quantize.prepare": "torchopt2edge.quantize.graph.prepare",
    "torchopt2edge.ramp": "torchopt2edge.compression.schedules",
    "torchopt2edge.sparsity": "torchopt2edge.compression.sparsity",
}


def new_path(old: str) -> str | None:
    """Return the new path of an old module or name, or of one below it; None for any other."""
    head, tail = old, ""
    while "." in head:
        if head in MOVED:
            return MOVED[head] + tail
        head, _, last = head.rpartition(".")
        tail = f".{last}{tail}"
    return None


def names_of(package: str) -> Callable[[str], Any]:
    """Return a ``__getattr__`` for a package that was a module: its old names with a warning."""

    def get(name: str) -> Any:
        new = MOVED.get(f"{package}.{name}")
        if new is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        _warn(f"{package}.{name}", new)
        return getattr(importlib.import_module(new.rpartition(".")[0]), name)

    return get


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


def _warn(old: str, new: str) -> None:
    text = f"{old} is now {new}; the old path works until the next release"
    warnings.warn(text, FutureWarning, stacklevel=3)
