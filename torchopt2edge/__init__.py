"""torchopt2edge: take a trained PyTorch vision model to phones and boards, on evidence.

Importing it is cheap: neither torch nor any runtime is imported before a function needs it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchopt2edge import data, devices, models, stages
    from torchopt2edge.api import Result, compare, lower, measure, optimize
    from torchopt2edge.errors import EdgeError
    from torchopt2edge.preprocess import Preprocess
    from torchopt2edge.quantize.decide import Quantize
    from torchopt2edge.stages.qat_session import qat
    from torchopt2edge.types import Constraints, Measurement, Verdict

__version__ = "0.1.0"

_HOME = {
    "Constraints": "torchopt2edge.types",
    "EdgeError": "torchopt2edge.errors",
    "Measurement": "torchopt2edge.types",
    "Preprocess": "torchopt2edge.preprocess",
    "Quantize": "torchopt2edge.quantize.decide",
    "Result": "torchopt2edge.api",
    "Verdict": "torchopt2edge.types",
    "compare": "torchopt2edge.api",
    "lower": "torchopt2edge.api",
    "measure": "torchopt2edge.api",
    "optimize": "torchopt2edge.api",
    "qat": "torchopt2edge.stages.qat_session",
}
_ROOMS = ("data", "devices", "models", "stages")

__all__ = [
    "Constraints",
    "EdgeError",
    "Measurement",
    "Preprocess",
    "Quantize",
    "Result",
    "Verdict",
    "__version__",
    "compare",
    "data",
    "devices",
    "lower",
    "measure",
    "models",
    "optimize",
    "qat",
    "stages",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its home the first time it is asked for (PEP 562)."""
    if name in _ROOMS:
        return importlib.import_module(f"torchopt2edge.{name}")
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'torchopt2edge' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted(__all__)
