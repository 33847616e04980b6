"""What one file of the report takes from another is public there."""

from __future__ import annotations

import ast
from pathlib import Path

import torchopt2edge.report


def test_no_file_takes_what_is_anothers_own() -> None:
    for file in sorted(Path(torchopt2edge.report.__path__[0]).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom):
                taken = [alias.name for alias in node.names if alias.name.startswith("_")]
                assert not taken, f"{file.name} takes {taken} from {node.module}"
