"""What a network is for: its metric, its loss and how a file is scored; one file per task."""

from __future__ import annotations

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    """Import a module of this room the first time it is asked for."""
    if name in ("classification", "multilabel", "super_resolution", "task"):
        return importlib.import_module(f"torchopt2edge.tasks.{name}")
    raise AttributeError(f"module 'torchopt2edge.tasks' has no attribute {name!r}")
