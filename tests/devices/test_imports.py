"""The files of the devices import one another in one direction, for types too."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import torchopt2edge.devices

ROOM = "torchopt2edge.devices"


def test_imports_go_in_no_circle() -> None:
    root = Path(torchopt2edge.devices.__path__[0])
    files = {
        ".".join([ROOM, *file.relative_to(root).with_suffix("").parts]): file
        for file in root.rglob("*.py")
    }
    arrows = {name: _named(file) & files.keys() for name, file in files.items()}
    assert arrows[f"{ROOM}.remote.stream"] >= {f"{ROOM}.remote.transport"}
    order = TopologicalSorter(arrows).static_order()  # raises CycleError, which names the circle
    assert len([*order]) == len(files)


def _named(file: Path) -> set[str]:
    """Return what may be modules among the names that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found
