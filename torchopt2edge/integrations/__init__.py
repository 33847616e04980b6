"""Compression inside a training loop of the user: a plain one, or Lightning's."""

from __future__ import annotations

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    """Import a module of this room the first time it is asked for."""
    if name in ("lightning", "loop"):
        return importlib.import_module(f"torchopt2edge.integrations.{name}")
    raise AttributeError(f"module 'torchopt2edge.integrations' has no attribute {name!r}")
