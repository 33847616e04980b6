"""torchopt2edge: take a trained PyTorch vision model to phones and boards, on evidence.

Importing it is cheap: neither torch nor any runtime is imported before a function needs it.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from torchopt2edge import _moved
from torchopt2edge._version import __version__

if TYPE_CHECKING:
    from torchopt2edge import data, devices, integrations, models, stages, tasks
    from torchopt2edge.api import bench, compare, optimize, quantize
    from torchopt2edge.compression.distillation.spec import Distill
    from torchopt2edge.compression.pruning.spec import Prune
    from torchopt2edge.compression.schedules import Iterative, Linear, OneShot, Polynomial
    from torchopt2edge.compression.sparsity.spec import Sparsify
    from torchopt2edge.errors import EdgeError
    from torchopt2edge.integrations.loop import compress, explain, rebuild
    from torchopt2edge.preprocessing.preprocess import Preprocess
    from torchopt2edge.quantize.options import Quantize
    from torchopt2edge.stages.qat_session import qat
    from torchopt2edge.types import Constraints, Measurement, Verdict
    from torchopt2edge.workflow.result import Result

# ONNX Runtime's wheel notes every start and sends it home unless this is set before its import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
_moved.install()

_HOME = {
    "Constraints": "torchopt2edge.types",
    "Distill": "torchopt2edge.compression.distillation.spec",
    "EdgeError": "torchopt2edge.errors",
    "Iterative": "torchopt2edge.compression.schedules",
    "Linear": "torchopt2edge.compression.schedules",
    "Measurement": "torchopt2edge.types",
    "OneShot": "torchopt2edge.compression.schedules",
    "Polynomial": "torchopt2edge.compression.schedules",
    "Preprocess": "torchopt2edge.preprocessing.preprocess",
    "Prune": "torchopt2edge.compression.pruning.spec",
    "Quantize": "torchopt2edge.quantize.options",
    "Result": "torchopt2edge.workflow.result",
    "Sparsify": "torchopt2edge.compression.sparsity.spec",
    "Verdict": "torchopt2edge.types",
    "compare": "torchopt2edge.api",
    "compress": "torchopt2edge.integrations.loop",
    "explain": "torchopt2edge.integrations.loop",
    "optimize": "torchopt2edge.api",
    "qat": "torchopt2edge.stages.qat_session",
    "rebuild": "torchopt2edge.integrations.loop",
}
_MODULES = ("data", "devices", "integrations", "models", "stages", "tasks")
_VERBS = ("bench", "quantize")  # a sub-package and a function of `torchopt2edge.api`
_OLD_VERBS = ("lower", "measure")

__all__ = [
    "Constraints",
    "Distill",
    "EdgeError",
    "Iterative",
    "Linear",
    "Measurement",
    "OneShot",
    "Polynomial",
    "Preprocess",
    "Prune",
    "Quantize",
    "Result",
    "Sparsify",
    "Verdict",
    "__version__",
    "bench",
    "compare",
    "compress",
    "data",
    "devices",
    "explain",
    "integrations",
    "models",
    "optimize",
    "qat",
    "quantize",
    "rebuild",
    "stages",
    "tasks",
]


class _Verb(ModuleType):
    """A sub-package that is called as the function of its name: ``t2e.quantize(model, …)``."""

    def __call__(self, *args: Any, **settings: Any) -> Any:
        return self._function()(*args, **settings)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._function())

    def _function(self) -> Callable[..., Any]:
        verb: Callable[..., Any] = getattr(
            importlib.import_module("torchopt2edge.api"), self.__name__.rpartition(".")[2]
        )
        return verb


class _Root(ModuleType):
    """This package: it makes the sub-packages of `_VERBS` callable once they are imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _VERBS and isinstance(value, ModuleType):
            value.__class__ = _Verb
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Root


def __getattr__(name: str) -> Any:
    """Import a public name from its home the first time it is asked for (PEP 562)."""
    if name in (*_MODULES, *_VERBS):
        return importlib.import_module(f"torchopt2edge.{name}")
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _OLD_VERBS:
        return _moved.names_of(__name__)(name)
    raise AttributeError(f"module 'torchopt2edge' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted(__all__)
